"""Every kind of store, each with a root of its own."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from diverseevol_core.storage.object_store import ObjectStore


@pytest.fixture(scope="session", params=["folder", "memory", "rclone", "moto"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """Name a kind of store; session-wide, so that tests of one kind run one after the other with one driver."""
    return str(request.param)


@pytest.fixture
def root(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the root of an empty store."""
    if store_kind == "folder":
        yield str(tmp_path / "the store")
    elif store_kind == "memory":
        name = secrets.token_hex(6)
        yield f"memory://{name}/store"
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/{name}"):
            memory.rm(f"/{name}", recursive=True)
    else:
        yield request.getfixturevalue(f"{store_kind}_s3")


@pytest.fixture
def store(root: str) -> ObjectStore:
    """Open an empty store."""
    return ObjectStore(root)


@pytest.fixture
def folder_store(tmp_path: Path) -> ObjectStore:
    """Open an empty folder as a store."""
    return ObjectStore(str(tmp_path / "the store"))


@pytest.fixture
def remote(rclone_s3: str) -> ObjectStore:
    """Open an empty store whose files are not files of this machine."""
    return ObjectStore(rclone_s3)
