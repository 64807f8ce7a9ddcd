"""Servers that several tests share, each started once."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import urllib3
from ais import AisGateway, aistore
from servers import NGINX, WebServer, free_port, program, running


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A real nginx, which knows ranges, lists folders and lets caches keep what it serves for an hour."""
    command = program("nginx", "nginx-light")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    (folder / "files").mkdir()
    user = "user root;" if folder.owner() == "root" else ""  # its worker must enter pytest's private folder
    (folder / "nginx.conf").write_text(NGINX.format(user=user, port=port, folder=folder))
    words = [command, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with running(words, port, folder / "nginx.log"):
        yield WebServer(f"http://127.0.0.1:{port}", folder / "files", folder / "access.log")


def tool(name: str, package: str) -> str:
    """Give the path of a program of this environment, or skip the test."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    return beside if os.path.exists(beside) else program(name, package)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 server; the URL of its door."""
    pytest.importorskip("botocore", reason="pip install 'wlshard[s3]'")
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "log"
    with running([tool("moto_server", "moto[server]"), "-H", "127.0.0.1", "-p", str(port)], port, log):
        urllib3.request("PUT", f"http://127.0.0.1:{port}/bucket")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Google's storage as emulated by others; the URL of its door."""
    port, log = free_port(), tmp_path_factory.mktemp("gcs") / "log"
    command = [tool("gcp-storage-emulator", "gcp-storage-emulator"), "start", "--port", str(port)]
    with running([*command, "--host", "127.0.0.1", "-M", "--default-bucket", "bucket"], port, log):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def gcs_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A storage of Google's of our own, which enforces preconditions."""
    port, log = free_port(), tmp_path_factory.mktemp("stub") / "log"
    with running([sys.executable, str(Path(__file__).with_name("gcs.py")), str(port)], port, log):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def s3_door(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let s3:// lead to a server, with a made-up user's credentials."""
    for name, value in {"ACCESS_KEY_ID": "user", "SECRET_ACCESS_KEY": "pass", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return lambda url: monkeypatch.setenv("AWS_ENDPOINT_URL", url)


def prefix(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


@pytest.fixture
def s3_url(moto: str, s3_door: Callable[[str], None], request: pytest.FixtureRequest) -> str:
    """An empty prefix of a bucket in S3."""
    s3_door(moto)
    return f"s3://bucket/{prefix(request)}"


@pytest.fixture
def gs_url(gcs_stub: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty prefix of a bucket in Google's storage that enforces preconditions."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_stub)
    return f"gs://bucket/{prefix(request)}"


@pytest.fixture
def ais(monkeypatch: pytest.MonkeyPatch) -> Iterator[AisGateway]:
    """A gateway of AIStore with one node behind it, and AIS_ENDPOINT."""
    with aistore() as gateway:
        monkeypatch.setenv("AIS_ENDPOINT", gateway.url)
        yield gateway


@pytest.fixture(autouse=True)
def scratch_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores keep their scratch where the test's files are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
