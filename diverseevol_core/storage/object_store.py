"""One object store over fsspec: a folder, `s3://` or `memory://` are the same code path.

Every write is one object that is either there whole or not there: bytes are complete before the put, and on a local
disk they go to a temporary name first and are renamed. Paths are relative to the store's root and cannot leave it.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from diverseevol_core.errors import ConfigError, ContractError, StorageError

_COPY_BYTES = 4 << 20
_TEMPORARY = ".tmp-"
_CONNECT_SECONDS = 5
_CONNECT_RETRIES = 1


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object: its path below the root, its size and, where the store tells it, when it was written."""

    path: str
    bytes: int
    modified: datetime | None = field(default=None, compare=False)


class ObjectStore:
    """Reads and writes objects below one root.

    Args:
        root: a folder, `file://`, `s3://bucket/prefix`, `memory://` or any other fsspec URI. Credentials and endpoints
            come from the environment of the driver, never from the URI.

    Raises:
        ConfigError: the URI's scheme is unknown, or it carries credentials.
    """

    def __init__(self, root: str) -> None:
        self.root = checked_root(root)
        try:
            self._fs, self._base = open_driver(self.root)
        except (ValueError, ImportError, OSError) as error:
            raise ConfigError(
                f"root={self.root!r} cannot be opened as a store: {error}; "
                "use a folder or a URI such as s3://bucket/prefix"
            ) from error
        self._base = self._base.rstrip("/")
        self._is_local = "file" in _protocols(self._fs)

    def __repr__(self) -> str:
        return f"ObjectStore({self.root!r})"

    @property
    def is_local(self) -> bool:
        """Whether objects are files of this machine."""
        return self._is_local

    def uri(self, path: str) -> str:
        """Write out the full address of an object."""
        return f"{self.root}{path}" if self.root.endswith("/") else f"{self.root}/{path}"

    def local_path(self, path: str) -> Path | None:
        """Return the file behind an object of a local store, or None for a remote one."""
        return Path(self._full(path)) if self._is_local else None

    def read_bytes(self, path: str) -> bytes:
        """Read one object whole.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the store did not answer.
        """
        with self._errors("read", path):
            content: bytes = self._fs.cat_file(self._full(path))
            return content

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write one object whole, replacing what was there.

        Raises:
            StorageError: the store refused it or did not answer.
        """
        with self._errors("write", path):
            if not self._is_local:
                self._fs.pipe_file(self._full(path), content)
                return
            target = Path(self._full(path))
            with _renamed_into_place(target) as temporary:
                temporary.write_bytes(content)

    def put_file(self, path: str, source: Path) -> None:
        """Copy a local file into one object, replacing what was there.

        Raises:
            StorageError: the store refused it or did not answer.
        """
        with self._errors("write", path):
            if not self._is_local:
                self._fs.put_file(str(source), self._full(path))
                return
            with _renamed_into_place(Path(self._full(path))) as temporary:
                _link_or_copy(source, temporary)

    def get_file(self, path: str, target: Path) -> str:
        """Copy one object into a local file.

        Args:
            path: the object, below the root.
            target: the file to write; its folder exists.

        Returns:
            The sha256 of the bytes copied.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the store did not answer.
        """
        digest = hashlib.sha256()
        with (
            self._errors("read", path),
            self._fs.open(self._full(path), "rb") as source,
            _renamed_into_place(target) as temporary,
            temporary.open("wb") as out,
        ):
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
                out.write(chunk)
        return digest.hexdigest()

    def sha256(self, path: str) -> str:
        """Digest one object without keeping it.

        Raises:
            FileNotFoundError: there is no such object.
            StorageError: the store did not answer.
        """
        digest = hashlib.sha256()
        with self._errors("read", path), self._fs.open(self._full(path), "rb") as source:
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def exists(self, path: str) -> bool:
        """Say whether there is an object at this path.

        Raises:
            StorageError: the store did not answer.
        """
        with self._errors("look up", path):
            try:
                # Not `isfile`, which takes every failure for an absence.
                return bool(self._fs.info(self._full(path))["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False

    def objects(self, prefix: str) -> list[ObjectInfo]:
        """List the objects below a prefix, sorted by path; unfinished local writes are left out."""
        return _finished(self._listed(self._full(prefix), prefix))

    def all_objects(self) -> list[ObjectInfo]:
        """List every object of the store, sorted by path; unfinished local writes are left out."""
        return _finished(self._listed(self._base, "all of it"))

    def unfinished_writes(self) -> list[ObjectInfo]:
        """List what interrupted writes left behind, sorted by path; stores other than folders leave nothing visible."""
        infos = self._listed(self._base, "all of it") if self._is_local else []
        return [info for info in infos if posixpath.basename(info.path).startswith(_TEMPORARY)]

    def _listed(self, place: str, name: str) -> list[ObjectInfo]:
        with self._errors("list", name):
            self._fs.invalidate_cache()
            try:
                found: dict[str, Any] = self._fs.find(place, detail=True)
            except FileNotFoundError:
                return []
        skipped = len(self._base) + 1
        infos = [ObjectInfo(name[skipped:], int(info["size"] or 0), _modified(info)) for name, info in found.items()]
        return sorted(infos, key=lambda info: info.path)

    def folders(self, prefix: str) -> list[str]:
        """List the names directly below a prefix that hold further objects, sorted."""
        with self._errors("list", prefix):
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(self._full(prefix), detail=True)
            except FileNotFoundError:
                return []
        return sorted(
            posixpath.basename(entry["name"].rstrip("/")) for entry in entries if entry["type"] == "directory"
        )

    def delete(self, path: str) -> None:
        """Remove one object; removing what is not there is no error."""
        with self._errors("delete", path):
            try:
                self._fs.rm_file(self._full(path))
            except FileNotFoundError:
                return

    def remove_empty_folders(self, path: str) -> None:
        """Remove the folders at and above a path of a local store that hold nothing; others have no folders."""
        folder = self.local_path(path)
        while folder is not None and folder != Path(self._base):
            _remove_if_empty(folder)
            folder = folder.parent

    def keeps_first_write(self) -> bool:
        """Say whether the store refuses a write that must not replace an object (a conditional put).

        Raises:
            StorageError: the store did not answer.
        """
        path = f"probe/{secrets.token_hex(8)}"
        self.write_bytes(path, b"first")
        with self._errors("write", path), suppress(FileExistsError, NotImplementedError):
            self._fs.pipe_file(self._full(path), b"second", mode="create")
        kept = self.read_bytes(path) == b"first"
        self.delete(path)
        self.remove_empty_folders("probe")
        return kept

    def probe(self) -> None:
        """Write, read back and delete a small object, so that a run fails before it computes anything.

        Raises:
            StorageError: one of the three failed; the message says which.
        """
        path, content = f"probe/{secrets.token_hex(8)}", b"diverseevol"
        self.write_bytes(path, content)
        if self.read_bytes(path) != content:
            raise StorageError(f"root={self.root!r} returned other bytes than were written; check the store")
        self.delete(path)
        self.remove_empty_folders("probe")

    def _full(self, path: str) -> str:
        normal = posixpath.normpath(path)
        if normal.startswith(("/", "..")) or normal == "." or "\\" in path:
            raise ContractError(f"path={path!r} would leave the store; use a path below the root")
        return f"{self._base}/{normal}"

    @contextmanager
    def _errors(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if verb in {"write", "delete"}:
                raise StorageError(f"could not {verb} {self.uri(path)}: the bucket or folder does not exist") from None
            raise
        except PermissionError as error:
            raise StorageError(
                f"could not {verb} {self.uri(path)}: permission denied ({_first_line(error)}); "
                "check the credentials or choose another root"
            ) from error
        except (StorageError, ContractError):
            raise
        except Exception as error:
            raise StorageError(
                f"could not {verb} {self.uri(path)}: {type(error).__name__}: {_first_line(error)}; "
                "check that the store is reachable"
            ) from error


def checked_root(root: str) -> str:
    """Return a store's root in one spelling: local folders absolute, no trailing slash.

    Raises:
        ConfigError: the root is empty, names no bucket or carries credentials.
    """
    if not root.removeprefix("file://").strip():
        raise ConfigError(f"root={root!r} names no store; use a folder or a URI such as s3://bucket/prefix")
    if has_credentials(root):
        raise ConfigError("root carries credentials before '@'; give them to the driver's environment instead")
    parts = urlsplit(root)
    is_uri = "://" in root
    if not is_uri and len(parts.scheme) > 1:
        raise ConfigError(
            f"root={root!r} is no URI and no plain folder; write s3://bucket/prefix, or ./ before a folder"
        )
    if not is_uri or parts.scheme == "file":
        # The path is normalised because listings come back normalised, and are cut by the length of the root.
        return os.path.abspath(Path(root.removeprefix("file://")).expanduser())  # noqa: PTH100
    if not parts.netloc.strip() and parts.scheme in {"s3", "s3a", "gs", "gcs"}:
        raise ConfigError(f"root={root!r} names no bucket; write {parts.scheme}://bucket/prefix")
    return root if root.endswith("://") else root.rstrip("/")


def has_credentials(uri: str) -> bool:
    """Say whether a URI, or one that it is chained to, carries a user name or key before `@`."""
    return any("@" in part.split("/", 1)[0] for part in uri.split("://")[1:])


def open_driver(uri: str) -> tuple[Any, str]:
    """Open the fsspec driver of a URI so that it sees other writers at once and gives up on a dead endpoint soon.

    Args:
        uri: a local path or any fsspec URI.

    Returns:
        The driver, and the path that it knows the URI by.

    Raises:
        ValueError: the URI's scheme is unknown.
        ImportError: the scheme's driver is not installed.
    """
    if not uri.startswith(("s3://", "s3a://")):
        return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]
    # A remembered listing holds sizes: an object written again by another process would be read short.
    # botocore's own retries of a connection that times out would add up to minutes.
    retries = {"max_attempts": _CONNECT_RETRIES}
    config = {"connect_timeout": _CONNECT_SECONDS, "retries": retries}
    return fsspec.core.url_to_fs(uri, use_listings_cache=False, config_kwargs=config)  # type: ignore[no-any-return]


def file_sha256(path: Path) -> str:
    """Digest a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _renamed_into_place(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}-{target.name}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_copy(source: Path, target: Path) -> None:
    """Take a finished scratch file over without a second copy where the file system allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _finished(infos: list[ObjectInfo]) -> list[ObjectInfo]:
    return [info for info in infos if not posixpath.basename(info.path).startswith(_TEMPORARY)]


def _modified(info: Mapping[str, Any]) -> datetime | None:
    """Read the time of writing from a listing: drivers name it and spell it each in their own way."""
    time = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(time, int | float):
        return datetime.fromtimestamp(time, UTC)
    if isinstance(time, datetime):
        return time if time.tzinfo else time.replace(tzinfo=UTC)
    return None


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
