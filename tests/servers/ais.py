"""AIStore as its documentation tells: a gateway that redirects to a node that has the objects.

GET with `{"action": "list"}` lists a bucket, in pages of three; objects have versions and checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from web import serving

PAGE = 3


class Handler(BaseHTTPRequestHandler):
    server: AisGateway

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        parts = urlsplit(self.path)
        found = re.fullmatch(r"/v1/(buckets|objects)/([^/]+)(?:/(.+))?", parts.path)
        assert found, self.path
        assert parse_qs(parts.query)["provider"] == ["ais"]
        kind, bucket, name = found[1], found[2], unquote(found[3] or "")
        gateway = self.server.node is not None
        with self.server.lock:
            self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        self.payload = (
            b""
            if gateway and kind == "objects"
            else self.rfile.read(int(self.headers.get("Content-Length") or 0))
        )
        if bucket != "bucket":
            self.tell(404)
        elif kind == "buckets":
            assert gateway
            self.list() if self.command == "GET" else self.tell(200)
        elif gateway:  # answers without reading a body that may come
            self.tell(307, headers={"Location": f"{self.server.node}{self.path}&pid=p1&utm=2"})
        else:
            self.thing(name)

    do_GET = do_PUT = do_HEAD = do_DELETE = do  # noqa: N815

    def thing(self, name: str) -> None:
        objects = self.server.objects
        if self.command == "PUT":
            data = self.payload
            with self.server.lock:
                objects[name] = data, objects.get(name, (b"", 0))[1] + 1
            self.tell(200)
        elif name not in objects:
            self.tell(404)
        elif self.command == "DELETE":
            del objects[name]
            self.tell(200)
        else:
            self.read(*objects[name])

    def read(self, data: bytes, version: int) -> None:
        headers = {"ais-checksum-type": "xxhash", "ais-checksum-value": hashlib.md5(data).hexdigest()[:16]}
        headers["ais-version"] = str(version)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            self.tell(200, data, headers)
        elif int(found[1]) >= len(data):
            self.tell(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        else:
            begin, end = int(found[1]), min(len(data), int(found[2] or len(data)) + 1)
            extent = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
            self.tell(206, data[begin:end], headers | extent)

    def list(self) -> None:
        asked = json.loads(self.payload)
        assert asked["action"] == "list"
        value, page = asked["value"], {"uuid": "J-6ynHbFVx", "continuation_token": "", "flags": 0}
        if token := value["continuation_token"]:
            assert value["uuid"] == page["uuid"]
        names = sorted(n for n in self.server.objects if n.startswith(value["prefix"]) and n > token)
        entries = [{"name": name, "size": str(len(self.server.objects[name][0]))} for name in names[:PAGE]]
        if names[PAGE:]:
            page["continuation_token"] = names[PAGE - 1]
        self.tell(200, json.dumps({**page, "entries": entries or None}).encode())

    def tell(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class AisGateway(ThreadingHTTPServer):
    """A gateway where `node` names a node's URL, else a node. `objects`: bytes and version, by name."""

    daemon_threads = False  # all have ended when it is closed

    def __init__(self, objects: dict[str, tuple[bytes, int]], node: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.node = objects, node
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, str | None]] = []
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients hang up."""


@contextmanager
def aistore() -> Iterator[AisGateway]:
    """Run both inside the block; give the gateway."""
    objects: dict[str, tuple[bytes, int]] = {}
    with ExitStack() as stack:
        node = stack.enter_context(serving(AisGateway(objects)))
        yield stack.enter_context(serving(AisGateway(objects, node.url)))
