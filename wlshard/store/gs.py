"""Objects in Google Cloud Storage, by its JSON interface; credentials are found by gcsfs, options named so.

gcsfs's own file operations are not used: since 2026 they ask for a bucket's type over gRPC first, which
hangs for a minute where nothing answers that (emulators, some proxies), and a try of theirs that is repeated
may lose to itself.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from wlshard.errors import AccessDenied, NotFound, UsageError, WlshardError
from wlshard.store.base import Entry
from wlshard.store.bucket import PART_BYTES, TXN, BucketStore, Source
from wlshard.store.http import ranged
from wlshard.store.options import options_for
from wlshard.store.patience import Passing, Patience, unavailable
from wlshard.store.stream import Get
from wlshard.store.wire import Answer, Body, checked, send

GOOGLE = "https://storage.googleapis.com"
_EDGE = "wlshard-part"


class GsStore(BucketStore):
    """Objects below gs://bucket/prefix."""

    def getter(self, name: str) -> Get:
        key = self.key(name)

        def get(start: int, end: int | None, tag: str | None) -> Answer:
            params = {"alt": "media"}
            if tag and tag.isdigit():
                params["ifGenerationMatch"] = tag
            return self._call("GET", self._object(key), params, name, ranged(start, end), fine=(412, 416))

        return get

    def upload(self, key: str, source: Source, txn: str | None) -> bool:
        if source.bytes <= PART_BYTES:
            return self.settled(key, source, txn, lambda: self._send_small(key, source, txn))
        return self._send_large(key, source, txn)

    def _send_small(self, key: str, source: Source, txn: str | None) -> bool:
        about = _about(key, txn)
        body = b"".join([
            f"--{_EDGE}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode(), about,
            f"\r\n--{_EDGE}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
            source.part(0, source.bytes), f"\r\n--{_EDGE}--\r\n".encode(),
        ])  # fmt: skip
        params = {"uploadType": "multipart"} | _condition(txn)
        kind = {"content-type": f"multipart/related; boundary={_EDGE}"}
        return self._sent("POST", self._uploads, params, source.url, kind, body)

    def _send_large(self, key: str, source: Source, txn: str | None) -> bool:
        params = {"uploadType": "resumable"} | _condition(txn)
        kind = {"content-type": "application/json; charset=UTF-8"}

        def begin() -> Body:
            return self._call("POST", self._uploads, params, source.url, kind, _about(key, txn), fine=(412,))

        begun = Patience(source.url).patiently(begin)
        begun.close()
        if begun.status == 412:
            return False
        session = begun.headers["location"]
        done = False
        try:
            patience = Patience(source.url)
            at: int | None = 0
            while at is not None:
                before = at
                at, done = self._send_part(session, source, at, patience, txn, key)
                source.sent((source.bytes if at is None else at) - before)
        finally:
            if not done:
                with suppress(WlshardError, Passing):
                    self._call("DELETE", session, {}, source.url, fine=(404, 410, 412, 499)).close()
        return done

    def _send_part(
        self, session: str, source: Source, at: int, patience: Patience, txn: str | None, key: str
    ) -> tuple[int | None, bool]:
        """Send the part from byte `at` on; give where to go on (None: it is over) and whether it is there."""
        end = min(at + PART_BYTES, source.bytes)
        extent, body, unclear = f"bytes {at}-{end - 1}/{source.bytes}", source.part(at, end - at), False
        while True:
            try:
                kind = {"content-range": extent}
                answer = self._call("PUT", session, {}, source.url, kind, body, fine=(308, 412))
            except Passing as failure:
                patience.again(failure)
                extent, body, unclear = f"bytes */{source.bytes}", b"", True  # how far did it come?
                continue
            answer.close()
            if answer.status == 308:
                patience.progressed()
                got = answer.headers.get("range", "")
                return (int(got.rpartition("-")[2]) + 1 if got else 0), False
            if answer.status == 412:
                return None, unclear and txn is not None and self.txn_of(key) == txn
            return None, True

    def _sent(
        self, method: str, url: str, params: dict[str, str], show: str, headers: dict[str, str], body: bytes
    ) -> bool:
        answer = self._call(method, url, params, show, headers, body, fine=(412,))
        answer.close()
        return answer.status != 412

    def txn_of(self, key: str) -> str | None:
        mark = self._json(self._object(key), {"fields": "metadata"}).get("metadata", {}).get(TXN)
        return None if mark is None else str(mark)

    def entries(self, prefix: str) -> Iterator[Entry]:
        params = {"prefix": prefix}
        while True:
            page = self._json(f"{self._base}/storage/v1/b/{quote(self.bucket, safe='')}/o", params)
            for item in page.get("items", ()):
                yield _entry(item["name"], item)
            if not page.get("nextPageToken"):
                return
            params["pageToken"] = page["nextPageToken"]

    def look(self, name: str) -> Entry:
        return _entry(name, self._json(self._object(self.key(name)), {}, self.url_of(name)))

    def remove(self, key: str) -> None:
        url = self._object(key)
        with suppress(NotFound):
            Patience(self.url).patiently(lambda: self._call("DELETE", url, {}, self.url)).close()

    def ask_date(self) -> None:
        with suppress(AccessDenied, NotFound):
            self._json(f"{self._base}/storage/v1/b/{quote(self.bucket, safe='')}", {"fields": "name"})

    @property
    def _base(self) -> str:
        return _endpoint(options_for(self.url))

    @property
    def _uploads(self) -> str:
        return f"{self._base}/upload/storage/v1/b/{quote(self.bucket, safe='')}/o"

    def _object(self, key: str) -> str:
        return f"{self._base}/storage/v1/b/{quote(self.bucket, safe='')}/o/{quote(key, safe='')}"

    def _json(self, url: str, params: dict[str, str], show: str | None = None) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            text = self._call("GET", url, params, show or self.url).read()
            try:
                found: dict[str, Any] = json.loads(text)
            except ValueError as error:
                raise unavailable("the server's answer is no JSON: check the endpoint", self.url) from error
            return found

        return Patience(show or self.url).patiently(ask)

    def _call(
        self,
        method: str,
        url: str,
        params: dict[str, str],
        show: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        fine: tuple[int, ...] = (),
    ) -> Body:
        options = options_for(self.url)
        if "userProject" not in url and (payer := _payer(options, self.url)):
            params = params | {"userProject": payer}
        if params:
            url = f"{url}{'&' if '?' in url else '?'}{urlencode(params)}"
        show = show if "://" in show else self.url_of(show)
        answer = send(method, url, _authorised(options, show) | (headers or {}), body=body, show=show)
        self.heard(answer.headers)
        return checked(answer, *fine)


def _payer(options: dict[str, Any], url: str) -> str | None:
    """Give the project that pays for a request, where not the bucket's does."""
    asked = options.get("requester_pays")
    if not asked or isinstance(asked, str):
        return asked or None
    project = options.get("project") or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        raise UsageError("requester_pays: which project pays? --storage-options …,project=NAME", url=url)
    return str(project)


def _about(key: str, txn: str | None) -> bytes:
    return json.dumps({"name": key} | ({"metadata": {TXN: txn}} if txn else {})).encode()


def _condition(txn: str | None) -> dict[str, str]:
    return {"ifGenerationMatch": "0"} if txn else {}


def _entry(name: str, item: dict[str, Any]) -> Entry:
    return Entry(name, int(item["size"]), datetime.fromisoformat(item["updated"]).timestamp())


def _endpoint(options: dict[str, Any]) -> str:
    host = options.get("endpoint_url") or os.environ.get("STORAGE_EMULATOR_HOST") or GOOGLE
    host = str(host).rstrip("/")
    return host if "://" in host else f"http://{host}"


_lock = threading.Lock()
_credentials: dict[str, Any] = {}


def _authorised(options: dict[str, Any], url: str) -> dict[str, str]:
    """Give the header that proves who we are; none without credentials."""
    google = "googleapis.com" in _endpoint(options)
    token = options.get("token", None if google else "anon")
    if token == "anon" or options.get("anon"):  # noqa: S105
        return {}
    headers: dict[str, str] = {}
    with _lock:
        try:
            _found(options, token, google).apply(headers)
        except WlshardError:
            raise
        except _login_errors() as error:
            advice = (
                f"no Google credentials ({type(error).__name__}): `gcloud auth application-default login`, "
            )
            raise AccessDenied(advice + "or --storage-options token=anon", url=url) from error
    return headers


def _found(options: dict[str, Any], token: Any, google: bool) -> Any:
    key = repr((options.get("project"), token, google))
    if key not in _credentials:
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        try:
            from gcsfs.credentials import GoogleCredentials
        except ImportError as error:
            raise UsageError("gs:// needs a further package: pip install gcsfs") from error
        _credentials[key] = GoogleCredentials(options.get("project"), "full_control", token, on_google=google)
    return _credentials[key]


def _login_errors() -> tuple[type[BaseException], ...]:
    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError

    return GoogleAuthError, HttpError, ValueError, OSError


def _leave_to_parent() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_leave_to_parent)
