"""Objects on a web server, read only; proxies of the environment count, redirects are followed."""

from __future__ import annotations

from collections.abc import Container, Iterator
from email.utils import parsedate_to_datetime

from wlshard import clock
from wlshard.errors import StoreUnavailable, UsageError
from wlshard.store.base import Capabilities, Entry, ReadOnly
from wlshard.store.far import FarStore
from wlshard.store.patience import Patience
from wlshard.store.stream import Get
from wlshard.store.wire import TIMEOUT_S, Answer, Body, checked, send


def ranged(start: int, end: int | None) -> dict[str, str]:
    """Give the header that asks for these bytes; none for the whole."""
    return {"range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}


class HttpStore(ReadOnly, FarStore):
    """Objects below one http:// or https:// URL. Servers do not list, so nothing here does."""

    can = Capabilities(write=False, list=False, create=False, shared=True, local=False)
    advice = "http(s) is for reading: write to a folder"

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(url)
        self.timeout_s = timeout_s

    def getter(self, name: str) -> Get:
        url = self.url_of(name)

        def get(start: int, end: int | None, tag: str | None) -> Answer:
            headers = ranged(start, end) | ({"if-match": tag} if tag else {})
            return checked(send("GET", url, headers, timeout_s=self.timeout_s), 412, 416)

        return get

    def stat(self, name: str) -> Entry:
        url = self.url_of(name)
        answer = Patience(url).patiently(lambda: self._head(url))
        size = answer.headers.get("content-length")
        answer.close()
        if size is None:
            raise StoreUnavailable("the server does not say how long this is: read it instead", url=url)
        return Entry(name, int(size), _mtime(answer))

    def _head(self, url: str) -> Body:
        answer = send("HEAD", url, timeout_s=self.timeout_s)
        if answer.status in (405, 501):  # a server that knows only GET
            answer.close()
            answer = send("GET", url, timeout_s=self.timeout_s)
        return checked(answer)

    def list(self, prefix: str = "", suffix: str = "", but: Container[str] = ()) -> Iterator[Entry]:
        raise UsageError(
            "a web server does not list: name the shards, as in x-{0000..0147}.tar", url=self.url
        )


def _mtime(answer: Answer) -> float:
    try:
        return parsedate_to_datetime(answer.headers.get("last-modified", "")).timestamp()
    except ValueError:
        return clock.now()
