"""Objects in AIStore, ais://bucket/prefix, by its own HTTP interface; AIS_ENDPOINT names a gateway.

A gateway answers what is asked of an object with a redirect to the node that has it. There is no conditional
write, so create-if-absent is a look and a write: a pool here has one rotator only. Times of objects are not
listed; they count as young, so that no lease is taken for dead.
Source: https://github.com/NVIDIA/aistore/blob/main/docs/http_api.md
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from wlshard import clock
from wlshard.errors import NotFound, StoreUnavailable, UsageError
from wlshard.store.base import Capabilities, Entry, object_url
from wlshard.store.bucket import PART_BYTES, BucketStore, Source
from wlshard.store.http import ranged
from wlshard.store.options import option
from wlshard.store.patience import Patience
from wlshard.store.stream import Get
from wlshard.store.wire import Answer, Body, checked, send


class AisStore(BucketStore):
    """Objects below ais://bucket/prefix. $AIS_AUTHN_TOKEN is sent where it is set."""

    can = Capabilities(write=True, list=True, create=False, shared=True, local=False)

    def getter(self, name: str) -> Get:
        key, url = self.key(name), self.url_of(name)

        def get(start: int, end: int | None, tag: str | None) -> Answer:  # noqa: ARG001  # not in its protocol
            answer = self._ask("GET", "objects", key, ranged(start, end), show=url, fine=(416,))
            answer.headers = _with_version(answer.headers)
            return answer

        return get

    def upload(self, key: str, source: Source, txn: str | None) -> bool:
        if txn is not None and self._stands(key):
            return False
        Patience(source.url).patiently(lambda: self._put(key, source))
        return True

    def _put(self, key: str, source: Source) -> None:
        """Ask the gateway where to, then send the bytes there: they would be lost on a redirect."""
        begun = self._ask(
            "PUT", "objects", key, {"content-length": "0"}, show=source.url, fine=(307, 302, 301)
        )
        begun.close()
        if (where := begun.headers.get("location")) is None:
            raise StoreUnavailable(
                "no gateway: it names no node to write to; check AIS_ENDPOINT", url=source.url
            )
        headers = {"content-length": str(source.bytes), **_login()}
        body = (source.part(at, PART_BYTES) for at in range(0, source.bytes, PART_BYTES))
        checked(send("PUT", where, headers, body=body, show=source.url)).close()

    def _stands(self, key: str) -> bool:
        try:
            self._patiently("HEAD", "objects", key).close()
        except NotFound:
            return False
        return True

    def entries(self, prefix: str) -> Iterator[Entry]:
        value = {"prefix": prefix, "props": "name,size", "uuid": "", "continuation_token": ""}
        while True:
            page = self._page(value)
            for entry in page.get("entries") or ():
                yield Entry(entry["name"], int(entry.get("size", 0)), clock.now())
            if not page.get("continuation_token"):
                return
            value |= {"continuation_token": page["continuation_token"], "uuid": page.get("uuid", "")}

    def _page(self, value: Mapping[str, str]) -> dict[str, Any]:
        body = json.dumps({"action": "list", "value": value}).encode()
        headers = {"content-type": "application/json", "accept": "application/json"}

        def ask() -> bytes:
            return self._ask("GET", "buckets", "", headers, body=body).read()

        try:
            found: dict[str, Any] = json.loads(Patience(self.url).patiently(ask))
        except ValueError as error:
            raise StoreUnavailable("its list is no JSON: check AIS_ENDPOINT", url=self.url) from error
        return found

    def look(self, name: str) -> Entry:
        answer = self._patiently("HEAD", "objects", self.key(name))
        answer.close()
        return Entry(name, int(answer.headers.get("content-length", 0)), clock.now())

    def remove(self, key: str) -> None:
        self._patiently("DELETE", "objects", key, fine=(404,)).close()

    def ask_date(self) -> None:
        answer = self._patiently("HEAD", "buckets", "")
        answer.close()
        self.heard(answer.headers)

    def _patiently(self, method: str, kind: str, key: str, fine: tuple[int, ...] = ()) -> Body:
        show = object_url(f"ais://{self.bucket}", key)
        return Patience(show).patiently(lambda: self._ask(method, kind, key, show=show, fine=fine))

    def _ask(
        self,
        method: str,
        kind: str,
        key: str,
        headers: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        show: str | None = None,
        fine: tuple[int, ...] = (),
    ) -> Body:
        endpoint = option(self.url, "endpoint_url") or os.environ.get("AIS_ENDPOINT")
        if not endpoint:
            raise UsageError("set AIS_ENDPOINT to an AIStore gateway, like http://host:51080", url=self.url)
        place = f"{self.bucket}/{quote(key)}" if key else self.bucket
        provider = option(self.url, "provider") or "ais"
        url = f"{endpoint.rstrip('/')}/v1/{kind}/{place}?provider={provider}"
        headers = {**(headers or {}), **_login()}
        follow = method != "PUT"
        return checked(send(method, url, headers, body=body, show=show or self.url, follow=follow), *fine)


def _with_version(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Let the version of an object, or else its checksum, be its tag; a weak one: no answer depends on it."""
    lower = {name.lower(): value for name, value in headers.items()}
    version = lower.get("ais-version") or lower.get("ais-checksum-value") or lower.get("etag")
    return {**lower, "etag": f'W/"{version}"'} if version else lower


def _login() -> dict[str, str]:
    token = os.environ.get("AIS_AUTHN_TOKEN")
    return {"authorization": f"Bearer {token}"} if token else {}
