"""Artifacts: a step's files under its key, made real by a manifest that is written last.

Whoever reads an artifact gets local files whose sha256 was compared with the manifest on the way. Bytes that differ
are never used: the manifest is withdrawn, so that the artifact no longer exists, and `DamagedArtifactError` asks for it
again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from diverseevol_core.contracts import ArtifactRef, Environment, FileEntry, Manifest, StepName
from diverseevol_core.errors import ContractError, DamagedArtifactError, StorageError
from diverseevol_core.fingerprint import Json, fingerprint
from diverseevol_core.keys import MANIFEST_NAME, artifact_path, step_key
from diverseevol_core.storage.object_store import ObjectStore, file_sha256

logger = logging.getLogger(__name__)

SUMMARY_NAME = "summary.json"


@dataclass(frozen=True, slots=True)
class StepIdentity:
    """What a step computes, apart from where: the whole content of its key."""

    step: StepName
    version: int
    config: Mapping[str, Json]
    inputs: Mapping[str, str]
    seed: int

    @property
    def key(self) -> str:
        """The cache key, 64 hexadecimal digits."""
        return step_key(self.step, self.version, self.config, self.inputs)

    @property
    def path(self) -> str:
        """Where the artifact lies below the root."""
        return artifact_path(self.step, self.key)


class ArtifactWriter:
    """Collects the files of one artifact and commits them with a manifest.

    Args:
        store: where to write.
        identity: what is computed.
        environment: what computes it.
    """

    def __init__(self, store: ObjectStore, identity: StepIdentity, environment: Environment) -> None:
        self._store = store
        self._identity = identity
        self._environment = environment
        self._files: dict[str, FileEntry] = {}
        self._started = time.perf_counter()

    def add_bytes(self, name: str, content: bytes, rows: int | None = None) -> None:
        """Write one file from memory.

        Raises:
            ContractError: the name leads out of the artifact.
            StorageError: the store refused the file.
        """
        entry = _file_entry(name, len(content), hashlib.sha256(content).hexdigest(), rows)
        self._store.write_bytes(f"{self._identity.path}/{name}", content)
        self._files[name] = entry

    def add_file(self, name: str, source: Path, rows: int | None = None) -> FileEntry:
        """Write one file from a finished local file, which must not change afterwards.

        Returns:
            What was written, for `adopt`.

        Raises:
            ContractError: the name leads out of the artifact.
            StorageError: the store refused the file.
        """
        entry = _file_entry(name, source.stat().st_size, file_sha256(source), rows)
        self._store.put_file(f"{self._identity.path}/{name}", source)
        self._files[name] = entry
        return entry

    def adopt(self, entry: FileEntry) -> bool:
        """Take a file that an earlier attempt wrote, when its bytes are still those.

        Returns:
            Whether it was taken.

        Raises:
            StorageError: the store did not answer.
        """
        try:
            is_sound = self._store.sha256(f"{self._identity.path}/{entry.name}") == entry.sha256
        except FileNotFoundError:
            return False
        if is_sound:
            self._files[entry.name] = entry
        return is_sound

    def add_summary(self, summary: BaseModel) -> None:
        """Write the step's summary as readable JSON."""
        self.add_bytes(SUMMARY_NAME, summary.model_dump_json(indent=1).encode())

    def commit(self, rows: int | None) -> ArtifactRef:
        """Write the manifest, by which the artifact begins to exist.

        Args:
            rows: rows of the artifact's main table; None for artifacts without one.

        Returns:
            A ref to the artifact.

        Raises:
            StorageError: the store refused the manifest.
        """
        files = tuple(self._files[name] for name in sorted(self._files))
        manifest = Manifest(
            step=self._identity.step,
            step_version=self._identity.version,
            key=self._identity.key,
            config=dict(self._identity.config),
            inputs=dict(self._identity.inputs),
            files=files,
            digest=content_digest(files),
            rows=rows,
            seed=self._identity.seed,
            environment=self._environment,
            seconds=round(time.perf_counter() - self._started, 3),
            finished_at=datetime.now(UTC),
        )
        self._store.write_bytes(f"{self._identity.path}/{MANIFEST_NAME}", manifest.model_dump_json(indent=1).encode())
        ref = manifest.ref(self._identity.path)
        logger.info("stored %s: %d files, %d bytes, %.1f s", ref.path, len(files), ref.bytes, manifest.seconds)
        return ref


def content_digest(files: Sequence[FileEntry]) -> str:
    """Digest the names and contents of an artifact's files; times and machines play no part."""
    return fingerprint([[file.name, file.sha256] for file in sorted(files, key=lambda file: file.name)])


def read_manifest(store: ObjectStore, path: str) -> Manifest | None:
    """Read the manifest of an artifact.

    Args:
        store: where to look.
        path: the artifact's path below the root.

    Returns:
        The manifest, or None where there is none or it cannot be understood (which is logged).

    Raises:
        StorageError: the store did not answer.
    """
    try:
        manifest = Manifest.model_validate_json(store.read_bytes(f"{path}/{MANIFEST_NAME}"))
    except FileNotFoundError:
        return None
    except ValidationError:
        logger.warning("manifest of %s is damaged and counts as missing", path)
        return None
    if manifest.digest != content_digest(manifest.files):
        logger.warning("manifest of %s contradicts itself and counts as missing", path)
        return None
    return manifest


def find_artifact(store: ObjectStore, identity: StepIdentity) -> ArtifactRef | None:
    """Look for finished work of the same identity, and compare all its bytes with the manifest.

    Args:
        store: where to look.
        identity: what should have been computed.

    Returns:
        A ref to it, or None where nothing sound is there; a damaged artifact has been withdrawn.

    Raises:
        StorageError: the store did not answer.
    """
    manifest = read_manifest(store, identity.path)
    if manifest is None or manifest.key != identity.key:
        return None
    for file in manifest.files:
        path = f"{identity.path}/{file.name}"
        try:
            if store.sha256(path) == file.sha256:
                continue
        except FileNotFoundError:
            pass
        logger.warning("%s is missing or damaged; %s is computed again", path, identity.step)
        _withdraw(store, identity.path)
        return None
    return manifest.ref(identity.path)


def is_present(store: ObjectStore, ref: ArtifactRef) -> bool:
    """Say cheaply whether an artifact still stands: same manifest, every file there with its size.

    Same-sized damage is found when the bytes are read, by `fetch_artifact`.

    Raises:
        StorageError: the store did not answer.
    """
    manifest = read_manifest(store, ref.path)
    if manifest is None or manifest.digest != ref.digest:
        return False
    sizes = {info.path: info.bytes for info in store.objects(ref.path)}
    return all(sizes.get(f"{ref.path}/{file.name}") == file.bytes for file in manifest.files)


@dataclass(frozen=True, slots=True)
class LocalArtifact:
    """An artifact's verified files on this machine."""

    folder: Path
    manifest: Manifest

    def paths(self, prefix: str) -> list[Path]:
        """List the files whose names begin with a prefix, in the order of their names."""
        return [self.folder / file.name for file in self.manifest.files if file.name.startswith(prefix)]


def fetch_artifact(
    store: ObjectStore, ref: ArtifactRef, scratch: Path, prefixes: Sequence[str] = ("",)
) -> LocalArtifact:
    """Bring an artifact's files to this machine, each compared with its sha256.

    Files of a local store are used where they lie; those of a remote store are kept below `scratch` by digest, so that
    another step of the same machine finds them.

    Args:
        store: where the artifact lies.
        ref: which artifact.
        scratch: a local folder for copies.
        prefixes: only files whose names begin with one of these.

    Returns:
        The verified files; the manifest lists all of them, fetched or not.

    Raises:
        DamagedArtifactError: bytes are missing or differ; the artifact has been withdrawn.
        StorageError: the store did not answer.
    """
    manifest = _manifest_of(store, ref)
    local = store.local_path(ref.path)
    folder = local if local is not None else scratch / "artifacts" / ref.digest[:32]
    folder.mkdir(parents=True, exist_ok=True)
    for file in manifest.files:
        if file.name.startswith(tuple(prefixes)):
            _fetch_file(store, ref, file, folder)
    return LocalArtifact(folder, manifest)


def read_summary(store: ObjectStore, ref: ArtifactRef) -> bytes:
    """Read an artifact's summary, compared with its sha256.

    Raises:
        DamagedArtifactError: it is missing or differs; the artifact has been withdrawn.
        StorageError: the store did not answer.
    """
    manifest = _manifest_of(store, ref)
    entry = next((file for file in manifest.files if file.name == SUMMARY_NAME), None)
    try:
        content = store.read_bytes(f"{ref.path}/{SUMMARY_NAME}")
    except FileNotFoundError:
        content = b""
    if entry is None or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise _withdrawn(store, ref, f"{SUMMARY_NAME} is missing or damaged")
    return content


def _file_entry(name: str, n_bytes: int, sha256: str, rows: int | None) -> FileEntry:
    try:
        return FileEntry(name=name, bytes=n_bytes, sha256=sha256, rows=rows)
    except ValidationError as error:
        raise ContractError(f"name={name!r} would leave the artifact; use a plain path below it") from error


def _manifest_of(store: ObjectStore, ref: ArtifactRef) -> Manifest:
    manifest = read_manifest(store, ref.path)
    if manifest is None:
        raise _withdrawn(store, ref, "its manifest is missing or damaged")
    if manifest.digest != ref.digest:
        # Computed again meanwhile, with other bytes: sound for those who refer to it by its new digest.
        raise DamagedArtifactError(f"{store.uri(ref.path)} now has other content than the ref names; find it again")
    return manifest


def _fetch_file(store: ObjectStore, ref: ArtifactRef, file: FileEntry, folder: Path) -> None:
    target = folder / file.name
    try:
        if store.is_local:
            found = file_sha256(target)
        elif target.is_file() and file_sha256(target) == file.sha256:
            return
        else:
            found = store.get_file(f"{ref.path}/{file.name}", target)
    except FileNotFoundError:
        raise _withdrawn(store, ref, f"{file.name} is missing") from None
    if found != file.sha256:
        if not store.is_local:
            target.unlink(missing_ok=True)
        raise _withdrawn(store, ref, f"{file.name} has other bytes than its manifest says")


def _withdraw(store: ObjectStore, path: str) -> None:
    try:
        store.delete(f"{path}/{MANIFEST_NAME}")
    except StorageError:
        logger.warning("could not withdraw the manifest of %s", path)


def _withdrawn(store: ObjectStore, ref: ArtifactRef, reason: str) -> DamagedArtifactError:
    _withdraw(store, ref.path)
    return DamagedArtifactError(f"{store.uri(ref.path)} is damaged: {reason}; it will be computed again")
