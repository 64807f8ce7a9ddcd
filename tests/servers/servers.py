"""Real servers: each on a free port of this machine, in a folder of its own, ended by its pid."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseServer
from typing import NamedTuple, TypeVar

import pytest

Server = TypeVar("Server", bound=BaseServer)

START_S = 30.0
NGINX = """daemon off; worker_processes 1; pid nginx.pid; error_log error.log; {user}
events {{ worker_connections 64; }}
http {{
    access_log access.log; default_type application/octet-stream;
    client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
    server {{ listen 127.0.0.1:{port}; root {folder}/files; autoindex on; expires 1h; }}
}}
"""


class WebServer(NamedTuple):
    """A web server, the folder it serves, and its log of requests."""

    url: str
    folder: Path
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str, package: str) -> str:
    """Give the path of a program, or skip the test."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return found or pytest.skip(f"{name} is not installed: apt-get install {package}")


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server inside the block, from when it answers on its port."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            _wait(server, port, log)
            yield
        finally:
            server.terminate()


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        else:
            return
