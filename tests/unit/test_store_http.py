"""Web servers that fail, and memory that is not shared."""

from __future__ import annotations

import http.server
import os
import threading

import pytest
from clocks import Skipping
from web import serving

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError
from wlshard.store.connect import connect
from wlshard.store.http import HttpStore


class OddHandler(http.server.BaseHTTPRequestHandler):
    """Answers with the status its path names, or breaks off."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        what = self.path.strip("/")
        if what == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 300)
        elif what == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\nff\r\ncut")
        elif what == "silent":
            released.wait(10)
        elif what == "moved":
            self.send_response(302)
            self.send_header("Location", "/plain")
            self.end_headers()
        elif what == "plain":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"data")
        else:
            self.send_error(int(what))

    def do_HEAD(self):
        self.send_error(405)


released = threading.Event()


@pytest.fixture(autouse=True)
def no_pauses():
    with clock.use(Skipping()):
        yield


@pytest.fixture
def url():
    released.clear()
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), OddHandler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"
        released.set()


@pytest.mark.parametrize(("name", "offset"), [("short", 300), ("chunked", 8)])
def test_a_body_that_breaks_off_is_an_error_with_its_offset(url, name, offset):
    with pytest.raises(StoreUnavailable, match="broke off") as caught:
        connect(url).read(name)
    assert caught.value.url == f"{url}/{name}"
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (410, NotFound),
        (401, AccessDenied),
        (403, AccessDenied),
        (500, StoreUnavailable),
        (503, StoreUnavailable),
    ],
)
def test_answers_become_errors(url, status, kind):
    with pytest.raises(kind, match=str(status)) as caught:
        connect(url).read(str(status))
    assert caught.value.url == f"{url}/{status}"


def test_redirects_are_followed(url):
    assert connect(url).read("moved") == b"data"


def test_a_body_of_unknown_length_ends_where_the_connection_ends(url):
    with connect(url).open("plain") as reader:
        assert reader.bytes is None
        block = bytearray(10)
        assert reader.readinto(block) == 4


def test_a_length_nobody_knows_is_an_error_of_stat(url):
    with pytest.raises(StoreUnavailable, match="how long"):
        connect(url).stat("plain")


def test_silence_ends_after_the_timeout(url):
    with pytest.raises(StoreUnavailable, match="timed out"):
        HttpStore(url, timeout_s=0.05).read("silent")


def test_nobody_there_is_unavailable():
    with pytest.raises(StoreUnavailable, match="no answer"):
        connect("http://127.0.0.1:1").read("x")


def test_web_servers_are_read_only_and_do_not_list():
    store = connect("http://127.0.0.1:1")
    with pytest.raises(UsageError, match=r"x-\{0000"):
        store.list()
    for call in (lambda: store.put("x", b""), lambda: store.create("x", b""), lambda: store.draft("x")):
        with pytest.raises(AccessDenied, match="reading"):
            call()


def test_memory_is_refused_in_another_process():
    store = connect("memory://fork")
    store.put("x", b"1")
    pid = os.fork()
    if pid == 0:
        try:
            store.read("x")
        except UsageError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    store.delete("x")


def test_memory_is_one_space_for_all_stores_of_the_process():
    connect("memory://a/b").put("x", b"1")
    assert connect("memory://a").read("b/x") == b"1"
    assert list(connect("memory://ab").list()) == []
    connect("memory://a").delete("b/x")
