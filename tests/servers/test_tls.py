"""Servers that speak TLS: what waiting does not mend is an error at once, which says what to do."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from faulty import faulty
from servers import program
from web import serving

from wlshard.errors import StoreUnavailable
from wlshard.store import patience
from wlshard.store.connect import connect


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")


class TlsServer(ThreadingHTTPServer):
    """`accepted`: how many connections have come."""

    daemon_threads = False
    accepted = 0
    context: ssl.SSLContext

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self.accepted += 1
        return self.context.wrap_socket(connection, server_side=True), address


@contextmanager
def tls_server(folder: Path, host: str) -> Iterator[TlsServer]:
    """Serve with a certificate that nobody but itself has signed, in `folder`/cert.pem."""
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout key.pem -out cert.pem"
    )
    names = ["-subj", "/CN=test", "-addext", f"subjectAltName={host}"]
    command = [program("openssl", "openssl"), *words.split(), *names]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    server = TlsServer(("127.0.0.1", 0), Handler)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with serving(server):
        yield server


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, s3_door: Callable[[str], None]) -> Callable[[str, str], bytes]:
    """Read an object by a scheme, from the server at an https:// URL."""

    def read(scheme: str, url: str) -> bytes:
        s3_door(url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("AIS_ENDPOINT", url)
        return connect(url if scheme == "https" else f"{scheme}://bucket").read("x")

    return read


@pytest.mark.parametrize("scheme", ["https", "s3", "gs", "ais"])
@pytest.mark.parametrize("host", ["IP:127.0.0.1", "DNS:elsewhere.example"])
def test_a_certificate_that_is_not_trusted_or_of_another_host_is_told_at_once(
    scheme: str,
    host: str,
    tmp_path: Path,
    read: Callable[[str, str], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tls_server(tmp_path, host) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        if "DNS" in host:
            for variable in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
                monkeypatch.setenv(variable, str(tmp_path / "cert.pem"))
        with pytest.raises(StoreUnavailable, match="SSL_CERT_FILE") as caught:
            read(scheme, url)
        assert ("127.0.0.1" if "DNS" in host else "self-signed") in caught.value.message
        assert server.accepted == 1
        if "IP" in host:
            for variable in ("SSL_CERT_FILE", "AWS_CA_BUNDLE"):
                monkeypatch.setenv(variable, str(tmp_path / "cert.pem"))
            assert read(scheme, url) == b"hello"


@pytest.mark.parametrize("scheme", ["https", "s3"])
def test_a_server_that_speaks_no_tls_is_told_at_once(
    scheme: str, gcs_stub: str, read: Callable[[str, str], bytes]
) -> None:
    with faulty(gcs_stub) as door:
        with pytest.raises(StoreUnavailable, match="check scheme and port"):
            read(scheme, door.url.replace("http:", "https:"))
        assert not door.requests


@pytest.mark.parametrize("scheme", ["https", "s3", "gs", "ais"])
def test_where_nobody_listens_another_try_is_made(
    scheme: str, read: Callable[[str, str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 2)
    with pytest.raises(StoreUnavailable, match="tried 2 times"):
        read(scheme, "https://127.0.0.1:9")
