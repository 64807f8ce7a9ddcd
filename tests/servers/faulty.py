"""A web server that stands before another and fails as told: the faults of networks, proxies and busy stores.

A fault is a function that is given each request (a Handler) and says whether it has dealt with it. What none
deals with is passed on, and its answer back.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from web import serving

HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "server", "date"}


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        pass

    def do(self) -> None:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        self.payload = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.number = len(self.server.requests)
            self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.server.fault is None or not self.server.fault(self):
            self.give(self.ask())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do  # noqa: N815

    def ask(self, *without: str) -> Reply:
        """Pass the request on, but for these headers; give the answer."""
        backend = http.client.HTTPConnection("127.0.0.1", self.server.backend_port, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP | set(without)}
        headers["Host"] = self.headers["Host"] if self.server.keep_host else headers["Host"]
        backend.request(self.command, self.path, self.payload or None, headers)
        answer = backend.getresponse()
        reply = Reply(answer.status, dict(answer.getheaders()), answer.read())
        backend.close()
        return reply

    def give(self, reply: Reply, *, length: int | None = None, body: bytes | None = None) -> None:
        """Answer; `length`, `body`: what is said and sent instead of what came."""
        body = reply.body if body is None else body
        told = reply.headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(reply.body)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in HOP - {"date"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(told if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        """End the connection as a network does that breaks: with a reset."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


Fault = Callable[[Handler], bool]


class FaultyServer(ThreadingHTTPServer):
    """Passes requests on to a server of this machine. `requests`: method, path and range of all so far."""

    daemon_threads = False  # all have ended when it is closed
    request_queue_size = 128  # connections that come at once
    keep_host = True

    def __init__(self, backend: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.backend_port = int(backend.rpartition(":")[2])
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients that hang up are what is tested."""


@contextmanager
def faulty(backend: str) -> Iterator[FaultyServer]:
    """Run one inside the block."""
    with serving(FaultyServer(backend)) as server:
        yield server


def reading(handler: Handler) -> bool:
    return handler.command == "GET"


def first(count: int, fault: Fault, when: Callable[[Handler], bool] = reading) -> Fault:
    """Let a fault befall the first `count` of some requests."""
    left = [count]
    lock = threading.Lock()

    def limited(handler: Handler) -> bool:
        with lock:
            if not when(handler) or left[0] <= 0:
                return False
            left[0] -= 1
        return fault(handler)

    return limited


def now_and_then(every: int, *faults: Fault) -> Fault:
    """Let one fault after the other befall each `every`-th request."""
    count, lock = [0], threading.Lock()

    def some(handler: Handler) -> bool:
        with lock:
            count[0] += 1
            number = count[0]
        return number % every == 0 and faults[number // every % len(faults)](handler)

    return some


def resets_after(count: int) -> Fault:
    """The connection breaks after so many bytes of the body."""

    def fault(handler: Handler) -> bool:
        reply = handler.ask()
        handler.give(reply, body=reply.body[:count])
        handler.cut()
        return True

    return fault


def closes_after(count: int) -> Fault:
    """The body is shorter than announced, and ends in peace."""

    def fault(handler: Handler) -> bool:
        reply = handler.ask()
        handler.give(reply, body=reply.body[:count])
        handler.close_connection = True
        return True

    return fault


def lies_about_length(by: int) -> Fault:
    def fault(handler: Handler) -> bool:
        reply = handler.ask()
        handler.give(reply, length=max(0, len(reply.body) + by))
        handler.close_connection = True
        return True

    return fault


def ignores_ranges(handler: Handler) -> bool:
    handler.give(handler.ask("range"))
    return True


def answers(status: int, **headers: str) -> Fault:
    def fault(handler: Handler) -> bool:
        handler.give(Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, b"busy"))
        return True

    return fault


def redirects_in_a_circle(handler: Handler) -> bool:
    handler.give(Reply(302, {"Location": handler.path + "x"}, b""))
    return True


def takes_its_time(_: Handler) -> bool:
    time.sleep(0.05)
    return False


def drips(handler: Handler) -> bool:
    """Bytes come one by one, and then no more."""
    reply = handler.ask()
    handler.give(reply, body=reply.body[:40])
    for at in range(40, 60):
        time.sleep(0.001)
        handler.wfile.write(reply.body[at : at + 1])
        handler.wfile.flush()
    handler.close_connection = True
    return True


def commits_and_drops_the_reply(handler: Handler) -> bool:
    """What was asked is done, and nobody hears of it."""
    handler.ask()
    handler.cut()
    return True


def drops(handler: Handler) -> bool:
    """The request never arrives."""
    handler.cut()
    return True
