"""Every error this project raises on purpose, as one tree.

```
DiverseEvolError
├── ConfigError            a setting is wrong; never retried
│   └── ConfigDriftError   a run name is taken by another config
├── ContractError          a caller broke a stated contract (shapes, ranges, budgets); never retried
├── PoolError              the rows of a pool cannot be read or trained on; never retried
├── ModelError             a model cannot be found, loaded or used; never retried
└── StorageError           bytes could not be moved; retried
    └── DamagedArtifactError   stored bytes differ from their manifest; the artifact is recomputed
```

Each message names the setting, the value and the way out, and is a single argument so that errors survive pickling
between processes.
"""

from __future__ import annotations


class DiverseEvolError(Exception):
    """Base of every error raised on purpose; its message is fit to be shown to a user as it is."""


class ConfigError(DiverseEvolError):
    """A setting is missing, malformed or impossible on this machine."""


class ConfigDriftError(ConfigError):
    """A run name already belongs to a run with another config."""


class ContractError(DiverseEvolError):
    """A value handed to a function breaks its documented contract."""


class PoolError(DiverseEvolError):
    """The rows of a pool cannot be read, recognised or used."""


class ModelError(DiverseEvolError):
    """A model or tokenizer cannot be found, loaded or used."""


class StorageError(DiverseEvolError):
    """Bytes could not be read from or written to the store; worth a retry."""


class DamagedArtifactError(StorageError):
    """Stored bytes are missing or differ from what their manifest says."""
