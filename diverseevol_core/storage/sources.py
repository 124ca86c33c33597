"""Where a pool's rows come from: files at any fsspec URI, Hugging Face data sets, the built-in demo pool.

A source gives its rows and a digest of its content, so that the same rows at another address are the same pool.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from diverseevol_core.data.demo_pool import demo_pool_from_uri
from diverseevol_core.data.reading import FileKind, iter_rows
from diverseevol_core.data.samples import SourceRow
from diverseevol_core.errors import ConfigError, DiverseEvolError, PoolError, StorageError
from diverseevol_core.fingerprint import fingerprint
from diverseevol_core.storage.object_store import has_credentials, open_driver

_READ_BYTES = 4 << 20
_KINDS: dict[str, FileKind] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}


class RowSource(Protocol):
    """Rows of a pool before anything is judged about them."""

    def digest(self) -> str:
        """Name the content of the rows, wherever they lie."""
        ...

    def rows(self) -> Iterator[SourceRow]:
        """Yield the rows in their own order, numbered from 0."""
        ...


def open_source(uri: str) -> RowSource:
    """Find out what kind of source a URI names, and that it is there.

    Args:
        uri: as described for `pool.uri`.

    Returns:
        The source; nothing of it has been read.

    Raises:
        PoolError: there is nothing at the URI, or its form is unknown.
        StorageError: the URI's store did not answer.
    """
    scheme = urlsplit(uri).scheme
    if scheme == "demo":
        return _DemoSource(uri)
    if scheme == "hf":
        return _HubSource(uri)
    if scheme in {"", "file"}:
        folder = Path(uri.removeprefix("file://")).expanduser()
        if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
            return _HubSource(uri)
    return _FileSource(*_list_files(uri))


@dataclass(frozen=True, slots=True)
class _DemoSource:
    uri: str

    def digest(self) -> str:
        return fingerprint(list(demo_pool_from_uri(self.uri)))

    def rows(self) -> Iterator[SourceRow]:
        for row, fields in enumerate(demo_pool_from_uri(self.uri)):
            yield SourceRow(row, dict(fields))


@dataclass(frozen=True, slots=True)
class _FileSource:
    fs: Any
    paths: tuple[str, ...]

    def digest(self) -> str:
        digests = []
        for path in self.paths:
            digest = hashlib.sha256()
            with _reading(path), self.fs.open(path, "rb") as file:
                while chunk := file.read(_READ_BYTES):
                    digest.update(chunk)
            digests.append(digest.hexdigest())
        return fingerprint(digests)

    def rows(self) -> Iterator[SourceRow]:
        first_row = 0
        for path in self.paths:
            row = -1
            with _reading(path), self.fs.open(path, "rb") as file:
                for row, source_row in enumerate(iter_rows(file, _kind(path), name=posixpath.basename(path))):
                    yield SourceRow(first_row + row, source_row.fields, source_row.problem, source_row.text)
            first_row += row + 1


@dataclass(frozen=True, slots=True)
class _HubSource:
    uri: str

    def digest(self) -> str:
        files = sorted({entry["filename"] for entry in self._load().cache_files})
        if not files:
            return fingerprint([dict(row) for row in self._load()])
        digests = []
        for name in files:
            with Path(name).open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return fingerprint(digests)

    def rows(self) -> Iterator[SourceRow]:
        for row, fields in enumerate(self._load()):
            yield SourceRow(row, dict(fields))

    def _load(self) -> Any:
        try:
            import datasets
        except ImportError:
            raise PoolError(f"pool.uri={self.uri!r} needs the 'hf' extra; pip install 'diverseevol[hf]'") from None
        parts = urlsplit(self.uri)
        options = dict(parse_qsl(parts.query))
        try:
            if parts.scheme == "hf":
                name = (parts.netloc + parts.path).strip("/")
                return datasets.load_dataset(
                    name, options.get("config"), split=options.get("split", "train"), revision=options.get("revision")
                )
            loaded = datasets.load_from_disk(str(Path(self.uri.removeprefix("file://")).expanduser()))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PoolError(f"pool.uri={self.uri!r} cannot be loaded as a data set: {reason}") from error
        if isinstance(loaded, datasets.DatasetDict):
            split = "train" if "train" in loaded else next(iter(loaded))
            return loaded[split]
        return loaded


def _list_files(uri: str) -> tuple[Any, tuple[str, ...]]:
    if has_credentials(uri):
        raise ConfigError("pool.uri carries credentials before '@'; give them to the driver's environment instead")
    try:
        fs, path = open_driver(str(Path(uri).expanduser()) if "://" not in uri else uri)
        if fs.isfile(path):
            _kind(path)
            return fs, (path,)
        names = sorted(fs.glob(path)) if any(mark in path for mark in "*?[") else sorted(fs.find(path))
    except FileNotFoundError:
        names = []
    except (ValueError, ImportError) as error:
        raise PoolError(
            f"pool.uri={uri!r} cannot be opened: {error}; use a path or a URI such as s3://bucket/rows.jsonl"
        ) from error
    except OSError as error:
        raise StorageError(f"pool.uri={uri!r} did not answer: {error}; check that the store is reachable") from error
    except Exception as error:
        if isinstance(error, PoolError):
            raise
        raise StorageError(f"pool.uri={uri!r} did not answer: {type(error).__name__}: {error}") from error
    files = tuple(name for name in names if posixpath.splitext(name)[1].lower() in _KINDS)
    if not files:
        raise PoolError(f"pool.uri={uri!r} names no {', '.join(_KINDS)} file; check the path")
    return fs, files


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except DiverseEvolError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        if isinstance(error, OSError) and error.errno is None and path.endswith(".parquet"):
            # Errors of systems and stores carry a number; the Parquet reader's, about damaged pages, do not.
            raise PoolError(f"{path} cannot be read as Parquet: {reason}; fetch or export it again") from error
        raise StorageError(
            f"could not read {path}: {type(error).__name__}: {reason}; check that the store is reachable"
        ) from error


def _kind(path: str) -> FileKind:
    extension = posixpath.splitext(path)[1].lower()
    if extension not in _KINDS:
        raise PoolError(f"pool.uri ends in {extension or 'no extension'!r}; known are {', '.join(_KINDS)}")
    return _KINDS[extension]
