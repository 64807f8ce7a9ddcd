"""Servers that several tests share, each started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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
