"""Objects on a web server, read only, one GET a stream; $http_proxy counts, redirects are followed."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import NoReturn, Self
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from wlshard import clock
from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError, WlshardError
from wlshard.store.base import Capabilities, Entry, object_url, read_whole

TIMEOUT_S = 60.0  # of silence, not of a whole transfer
_SAFE = "/%?&=:@+,;~!$'()*[]#"


class HttpReader:
    """The body of one response. A body shorter than announced is an error, never an early end."""

    def __init__(
        self, response: http.client.HTTPResponse | None, url: str, start: int, size: int | None
    ) -> None:
        self.bytes = size
        self._response = response
        self._url = url
        self._at = start

    def readinto(self, target: bytearray | memoryview, /) -> int:
        view, filled = memoryview(target).cast("B"), 0
        try:
            while self._response is not None and filled < len(view):
                count = self._response.readinto(view[filled:])
                if not count:
                    break
                filled += count
        except (OSError, http.client.HTTPException) as error:
            came = filled + len(getattr(error, "partial", b""))  # what a broken chunk still held
            raise self._broken(self._at + came, str(error) or type(error).__name__) from error
        self._at += filled
        if len(view) > filled and self.bytes is not None and self._at < self.bytes:
            raise self._broken(self._at, f"only {self._at} of {self.bytes} bytes came")
        return filled

    def _broken(self, offset: int, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"the stream broke off ({why}): try again", url=self._url, offset=offset)

    def skip(self, start: int) -> None:
        """Read up to byte `start`, where the server sent the whole object though asked for a part."""
        block = memoryview(bytearray(1 << 16))
        while self._at < start and self.readinto(block[: start - self._at]):
            pass

    def close(self) -> None:
        if self._response is not None:
            self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class HttpStore:
    """Objects below one http:// or https:// URL. Servers do not list, so nothing here does."""

    can = Capabilities(write=False, list=False, create=False, shared=True, local=False)

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self.timeout_s = timeout_s

    def open(self, name: str, start: int = 0) -> HttpReader:
        url = object_url(self.url, name)
        headers = {"Range": f"bytes={start}-"} if start else {}
        try:
            response = self._request("GET", url, headers)
        except _PastTheEnd as past:
            size = past.message.rpartition("/")[2]
            return HttpReader(None, url, start, int(size) if size.isdigit() else None)
        reader = HttpReader(response, url, *_extent(response, start))
        try:
            reader.skip(start)
        except WlshardError:
            reader.close()
            raise
        return reader

    def read(self, name: str) -> bytes:
        with self.open(name) as reader:
            return read_whole(reader)

    def stat(self, name: str) -> Entry:
        url = object_url(self.url, name)
        try:
            response = self._request("HEAD", url, {})
        except UsageError:  # 405: a server that knows only GET
            response = self._request("GET", url, {})
        with response:
            size = response.headers.get("Content-Length")
            if size is None:
                raise StoreUnavailable("the server does not say how long this is: read it instead", url=url)
            return Entry(name, int(size), _mtime(response))

    def _request(self, method: str, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        headers = {"Accept-Encoding": "identity", "User-Agent": "wlshard", **headers}
        request = Request(quote(url, safe=_SAFE), headers=headers, method=method)  # noqa: S310 — http(s) only
        try:
            response: http.client.HTTPResponse = urlopen(request, timeout=self.timeout_s)  # noqa: S310
        except HTTPError as error:
            with error:
                raise _answered(error, url) from error
        except URLError as error:
            raise StoreUnavailable(f"no answer ({error.reason}): check host and network", url=url) from error
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise StoreUnavailable(f"no answer ({why}): check host and network", url=url) from error
        except ValueError as error:
            raise UsageError(f"{error}: check the URL", url=url) from error
        return response

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        return iter(())

    def reopen(self, name: str) -> None:
        return None

    def now(self) -> float:
        return clock.now()

    def path(self, name: str) -> None:
        return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        raise UsageError(
            "a web server does not list: name the shards, as in x-{0000..0147}.tar", url=self.url
        )

    def _refuse(self, name: str, *_: object) -> NoReturn:
        raise AccessDenied("http(s) is for reading: write to a folder", url=object_url(self.url, name))

    put = create = draft = drop = delete = sync = _refuse


class _PastTheEnd(WlshardError):
    """Answer 416: the object ends before the byte asked for. Carries the answer's Content-Range."""


def _answered(error: HTTPError, url: str) -> WlshardError:
    status = f"the server answered {error.code} {error.reason}"
    if error.code in (404, 410):
        return NotFound(f"{status}: check the URL", url=url)
    if error.code in (401, 403, 407):
        return AccessDenied(f"{status}: check your credentials and the URL", url=url)
    if error.code == 405:
        return UsageError(f"{status}: this server cannot be asked that", url=url)
    if error.code == 416:
        return _PastTheEnd(error.headers.get("Content-Range", ""), url=url)
    return StoreUnavailable(f"{status}: try again later", url=url)


def _extent(response: http.client.HTTPResponse, start: int) -> tuple[int, int | None]:
    """Give (offset of the body's first byte, bytes of the whole object or None)."""
    length = response.headers.get("Content-Length")
    if response.headers.get("Content-Encoding", "identity") != "identity" or not (length or "").isdigit():
        size = None
    else:
        size = int(length or 0)
    if response.status != 206:
        return 0, size
    return start, None if size is None else start + size


def _mtime(response: http.client.HTTPResponse) -> float:
    try:
        return parsedate_to_datetime(response.headers.get("Last-Modified", "")).timestamp()
    except ValueError:
        return clock.now()
