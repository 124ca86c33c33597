"""Names of query strategies, and how each is built from the options.

Strategies are imported when they are made, so that listing names loads neither torch nor any third-party package. Other
packages add strategies through the entry point group `diverseevol.strategies`: an entry `name = "module:factory"` whose
factory takes `SelectionOptions` and returns a `QueryStrategy`.
"""

from __future__ import annotations

import difflib
import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from diverseevol_core.errors import ConfigError

if TYPE_CHECKING:
    from diverseevol_core.selection.strategy import QueryStrategy, SelectionOptions

ENTRY_POINT_GROUP = "diverseevol.strategies"

_BUILT_IN = {
    "k_center": "diverseevol_core.selection.k_center:KCenterStrategy",
    "random": "diverseevol_core.selection.uniform:RandomStrategy",
    "least_confidence": "diverseevol_core.selection.uncertainty:least_confidence",
    "margin": "diverseevol_core.selection.uncertainty:margin",
    "entropy": "diverseevol_core.selection.uncertainty:entropy",
    "vendi": "diverseevol_core.selection.vendi:VendiStrategy",
    "facility_location": "diverseevol_core.selection.facility_location:FacilityLocationStrategy",
    "kmeans_quota": "diverseevol_core.selection.kmeans_quota:KMeansQuotaStrategy",
}


def strategy_names() -> tuple[str, ...]:
    """List every strategy that can be configured.

    Returns:
        Built-in names in the order of the documentation, then third-party names, sorted.
    """
    return (*_BUILT_IN, *sorted(_third_party()))


def make_strategy(name: str, options: SelectionOptions) -> QueryStrategy:
    """Build a strategy by name.

    Args:
        name: one of `strategy_names()`.
        options: settings; a strategy reads those that concern it.

    Returns:
        The strategy, ready to select.

    Raises:
        ConfigError: the name is unknown, or a third-party strategy cannot be loaded.
    """
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name].split(":")
        built_in: QueryStrategy = getattr(importlib.import_module(module), attribute)(options)
        return built_in
    entry = _third_party().get(name)
    if entry is None:
        raise ConfigError(_unknown(name))
    return _load(entry, options)


def _third_party() -> dict[str, EntryPoint]:
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: entry for name, entry in found.items() if name not in _BUILT_IN}


def _load(entry: EntryPoint, options: SelectionOptions) -> QueryStrategy:
    try:
        strategy: Any = entry.load()(options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"selection.strategy={entry.name!r} cannot be built from {entry.value} ({error}); "
            "its factory must take SelectionOptions"
        ) from error
    missing = [part for part in ("name", "needs", "select") if not hasattr(strategy, part)]
    if missing:
        raise ConfigError(
            f"selection.strategy={entry.name!r} from {entry.value} lacks {missing}; return a QueryStrategy"
        )
    made: QueryStrategy = strategy
    return made


def _unknown(name: str) -> str:
    names = strategy_names()
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(names)}"
    return f"selection.strategy={name!r} is unknown; {hint}"
