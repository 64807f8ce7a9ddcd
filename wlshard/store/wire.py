"""HTTP requests: connections that are kept, proxies of the environment, answers as errors of ours."""

from __future__ import annotations

import logging
import os
import re
import ssl
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from http.client import HTTPResponse
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, IncompleteRead, LocationValueError, MaxRetryError, ResponseError
from urllib3.util.ssl_match_hostname import CertificateError

from wlshard.errors import AccessDenied, NotFound, StoreUnavailable, UsageError, WlshardError, shown
from wlshard.store.options import option
from wlshard.store.patience import Passing, retry_after, unavailable

TIMEOUT_S = 60.0  # of silence, not of a whole transfer
REDIRECTS = 10
_SAFE = "/%?&=:@+,;~!$'()*[]#"
_KEPT = 32  # connections to one host
_PROXIED = [f"{what}_proxy" for what in ("http", "https", "all", "no")]
_PROXY_SETTINGS = [*_PROXIED, *map(str.upper, _PROXIED), "REQUEST_METHOD"]
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_NO_TLS = re.compile(
    "CERT|UNKNOWN_CA|VERSION_NUMBER|PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|NO_PROTOCOLS|HTTP_REQUEST"
    "|HANDSHAKE_FAILURE|RECORD_LAYER_FAILURE"
)
_lock = threading.Lock()
_pools: dict[str | None, urllib3.PoolManager] = {}  # by proxy


class Answer(Protocol):
    """A server's answer, its body not read yet. Close it."""

    status: int
    headers: Mapping[str, str]  # any case for HTTP, lower case for SDKs: ask in lower case

    def readinto(self, target: memoryview, /) -> int:
        """Read some bytes; 0 at the end. Passing: the connection broke."""
        ...

    def close(self) -> None: ...

    def stop(self) -> None:
        """End a `readinto` of another thread."""
        ...


class Body:
    """An answer from urllib3's response, for `url`, which errors name."""

    def __init__(self, response: urllib3.BaseHTTPResponse, url: str) -> None:
        self.status, self.url = response.status, url
        self.headers: Mapping[str, str] = response.headers
        self.reason = response.reason or ""
        self._response = response
        body = getattr(response, "_fp", None)
        told = isinstance(body, HTTPResponse) and body.length is not None and not body.chunked
        self._plain: HTTPResponse | None = body if told else None

    def readinto(self, target: memoryview, /) -> int:
        try:
            if self._plain is not None:
                return self._receive(self._plain, target)
            data = self._response.read1(len(target))
        except (HTTPError, OSError, ValueError) as error:
            raise unavailable(f"the stream broke off ({what_of(error)}): try again", self.url) from error
        target[: len(data)] = data
        return len(data)

    def _receive(self, body: HTTPResponse, target: memoryview) -> int:
        """Let the system put what has come into target itself: urllib3's own reads make and copy bytes."""
        if not body.length:
            return 0
        count = body.fp.readinto1(target[: body.length])
        if not count:
            raise IncompleteRead(0, body.length)
        body.length -= count
        if not body.length:
            body.close()
            self._response.release_conn()
        return count

    def read(self) -> bytes:
        """Read a small body to its end, and let go of the connection."""
        try:
            data = self._response.read()
        except (HTTPError, OSError, ValueError) as error:
            raise unavailable(f"the answer broke off ({what_of(error)}): try again", self.url) from error
        finally:
            self.close()
        return data

    def close(self) -> None:
        if self.status >= 400:
            with suppress(HTTPError, OSError, ValueError):
                self._response.read(1 << 16)  # an error's text: then the connection can be used again
        self._response.close()

    def stop(self) -> None:
        with suppress(ValueError, RuntimeError, OSError, AttributeError):
            self._response.shutdown()


def send(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    body: bytes | Iterable[bytes] | None = None,
    show: str | None = None,
    timeout_s: float = TIMEOUT_S,
    follow: bool = True,
) -> Body:
    """Send one request, following redirects (`follow`); give the answer whatever its status.

    show: the URL that errors name, where the real one is not for the eye. Passing: no answer came.
    """
    show = show or url
    headers = {"accept-encoding": "identity", "user-agent": "wlshard", **(headers or {})}
    if login := _login(url):
        headers |= urllib3.make_headers(basic_auth=login)
    retries = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=REDIRECTS)
    try:
        response = _pool(url).request(
            method,
            quote(url, safe=_SAFE),
            headers=headers,
            body=body,
            retries=retries,
            redirect=follow,
            timeout=urllib3.Timeout(connect=min(timeout_s, 20.0), read=timeout_s),
            preload_content=False,
            decode_content=False,
        )
    except LocationValueError as error:
        raise UsageError("no server can be asked for this: check the URL", url=show) from error
    except MaxRetryError as error:
        if isinstance(error.reason, ResponseError):
            advice = f"more than {REDIRECTS} redirects, a loop perhaps: check the URL"
            raise StoreUnavailable(advice, url=show) from error
        raise no_answer(error, "host", show) from error
    except (HTTPError, OSError) as error:
        raise no_answer(error, "host", show) from error
    return Body(response, show)


def no_answer(error: BaseException, what: str, url: str) -> WlshardError | Passing:
    """Give what it means that a library got no answer: which does not pass if it is about TLS."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ssl.SSLError | CertificateError):
        causes = (getattr(inner, "reason", None), *inner.args, inner.__cause__, inner.__context__)
        inner = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    if isinstance(inner, ssl.SSLCertVerificationError | CertificateError):
        said = getattr(inner, "verify_message", str(inner))
        return StoreUnavailable(
            f"its certificate is not accepted ({said}): check the host's name and this machine's clock; name "
            "an authority of your own by SSL_CERT_FILE (s3://: AWS_CA_BUNDLE)",
            url=url,
        )
    if inner is not None and _NO_TLS.search(said := inner.reason or ""):
        said = said.lower().replace("_", " ")
        return StoreUnavailable(f"it does not speak TLS as we do ({said}): check scheme and port", url=url)
    return unavailable(f"no answer ({what_of(error)}): check {what} and network", url)


def what_of(error: BaseException) -> str:
    """Say in a few words what a library's error means, without any URL in it: those may hold secrets."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return what_of(reason)
    if isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError):
        return "timed out"
    cause = error.__cause__ or error.__context__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return "the body is shorter than announced"
    return type(error).__name__


def refusal(status: int, reason: str, url: str, headers: Mapping[str, str]) -> WlshardError | Passing:
    """Give what an answer that is no success means."""
    said = f"the server answered {status} {reason}".rstrip()
    if status in (404, 410):
        return NotFound(f"{said}: check the URL", url=url)
    if status in (401, 403, 407):
        return AccessDenied(f"{said}: check your credentials and the URL", url=url)
    if status in (400, 405, 501):
        return UsageError(f"{said}: this server cannot be asked that", url=url)
    error = StoreUnavailable(f"{said}: try again later", url=url)
    return Passing(error, retry_after(headers.get("retry-after"))) if status in _PASSING else error


def checked(answer: Body, *fine: int) -> Body:
    """Give the answer if its status is one of these (or 2xx); else raise what it means, and close it."""
    if answer.status // 100 == 2 or answer.status in fine:
        return answer
    answer.close()
    raise refusal(answer.status, answer.reason, answer.url, answer.headers)


def forget_connections() -> None:
    """Close the connections that are kept for later."""
    with _lock:
        pools = list(_pools.values())
        _pools.clear()
    for pool in pools:
        pool.clear()


def _pool(url: str) -> urllib3.PoolManager:
    proxy = _proxy(url)
    with _lock:
        if proxy not in _pools:
            if proxy is None:
                _pools[proxy] = urllib3.PoolManager(16, maxsize=_KEPT)
            else:
                login = _login(proxy)
                headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
                _pools[proxy] = urllib3.ProxyManager(proxy, 16, proxy_headers=headers, maxsize=_KEPT)
        return _pools[proxy]


def _proxy(url: str) -> str | None:
    """Give the proxy for a URL: the one asked for, else the environment's."""
    asked = option(url, "http_proxy")
    if asked is not None:
        return str(asked) or None
    parts = urlsplit(url)
    settings = tuple(os.environ.get(name) for name in _PROXY_SETTINGS)
    return _proxy_of(parts.scheme, parts.netloc.rpartition("@")[2], settings)


@lru_cache
def _proxy_of(scheme: str, host: str, settings: tuple[str | None, ...]) -> str | None:  # noqa: ARG001
    """Give what the environment says; it is looked through once for each host, while `settings` stay."""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")


def _login(url: str) -> str | None:
    """Give the `user:password` that stands in a URL."""
    before, at, _ = urlsplit(url).netloc.rpartition("@")
    return unquote(before) if at else None


def _without_secrets(record: logging.LogRecord) -> bool:
    """Take what signs a URL out of urllib3's own debug log."""
    if isinstance(record.args, tuple):
        record.args = tuple(shown(arg) if isinstance(arg, str) else arg for arg in record.args)
    return True


logging.getLogger("urllib3.connectionpool").addFilter(_without_secrets)


def _leave_to_parent() -> None:
    global _lock
    _lock = threading.Lock()
    _pools.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
