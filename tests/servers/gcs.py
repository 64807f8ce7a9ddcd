"""A small Google Cloud Storage: preconditions are enforced, uploads can be gone on with.

`gcs.py PORT` runs it.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # entries of a listing, so that there are several


class GcsServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.objects: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.uploads: dict[str, tuple[dict[str, Any], bytearray]] = {}
        self.generation = 1000
        self.lock = threading.RLock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one packet: a second would wait for the first one's receipt
    server: GcsServer

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        self.payload = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.params = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self.server.lock:
            if parts.path.startswith("/upload/"):
                self.upload()
            else:
                found = re.fullmatch(r"/storage/v1/b/[^/]+(/o(?:/(.+))?)?", parts.path)
                assert found, self.path
                self.thing(found[1], unquote(found[2] or ""))

    do_GET = do_PUT = do_POST = do_DELETE = do  # noqa: N815

    def thing(self, listing: str | None, name: str) -> None:
        objects = self.server.objects
        if listing is None:
            self.tell(200, {"name": "bucket"})
        elif not name:
            self.list()
        elif name not in objects:
            self.tell(404, {"error": "no such object"})
        elif self.command == "DELETE":
            del objects[name]
            self.tell(204)
        elif self.params.get("alt") == "media":
            self.media(*objects[name])
        else:
            self.tell(200, objects[name][1])

    def list(self) -> None:
        names = sorted(n for n in self.server.objects if n.startswith(self.params.get("prefix", "")))
        names = [n for n in names if n > self.params.get("pageToken", "")]
        page: dict[str, Any] = {"items": [self.server.objects[name][1] for name in names[:PAGE]]}
        if names[PAGE:]:
            page["nextPageToken"] = names[PAGE - 1]
        self.tell(200, page)

    def media(self, data: bytes, about: dict[str, Any]) -> None:
        headers = {"x-goog-generation": about["generation"], "etag": f'"{about["generation"]}"'}
        wanted = self.params.get("ifGenerationMatch")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted not in (None, about["generation"]):
            self.tell(412)
        elif found is None:
            self.tell(200, data, headers)
        elif int(found[1]) >= len(data):
            self.tell(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
        else:
            begin, end = int(found[1]), min(len(data), int(found[2] or len(data)) + 1)
            extent = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
            self.tell(206, data[begin:end], headers | extent)

    def upload(self) -> None:
        kind = self.params["uploadType"]
        if kind == "multipart":
            edge = b"--" + self.headers["Content-Type"].rpartition("=")[2].encode()
            _, about, rest = self.payload.split(edge + b"\r\n", 2)
            data = rest.partition(b"\r\n\r\n")[2][: -len(b"\r\n" + edge + b"--\r\n")]
            self.make(json.loads(about.partition(b"\r\n\r\n")[2]), data)
        elif self.command == "POST":
            session = str(len(self.server.uploads))
            self.server.uploads[session] = json.loads(self.payload) | {"_": self.params}, bytearray()
            url = f"http://{self.headers['Host']}{self.path}&upload_id={session}"
            self.tell(200, b"", {"Location": url})
        elif self.command == "DELETE":
            self.server.uploads.pop(self.params["upload_id"], None)
            self.tell(499)
        else:
            self.go_on(self.params["upload_id"])

    def go_on(self, session: str) -> None:
        about, data = self.server.uploads[session]
        found = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(\d+)", self.headers["Content-Range"])
        assert found
        if found[1] is not None and int(found[1]) <= len(data):
            del data[int(found[1]) :]
            data += self.payload
        if len(data) == int(found[2]):
            self.params |= about.pop("_", {})
            self.make(about, bytes(data))
        else:
            self.tell(308, b"", {"Range": f"bytes=0-{len(data) - 1}"} if data else {})

    def make(self, about: dict[str, Any], data: bytes) -> None:
        name = about["name"]
        if self.params.get("ifGenerationMatch") == "0" and name in self.server.objects:
            self.tell(412)
            return
        self.server.generation += 1
        now = datetime.now(UTC).isoformat()
        about |= {"size": str(len(data)), "updated": now, "generation": str(self.server.generation)}
        self.server.objects[name] = data, about
        self.tell(200, about)

    def tell(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    GcsServer(int(sys.argv[1])).serve_forever()
