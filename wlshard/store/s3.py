"""Objects in S3 and what speaks like it, by the SDK's own synchronous client (botocore).

Credentials, regions and endpoints are found where AWS tools look for them; options are named as in s3fs.
No event loop and no thread of its own: it can be used before and after a fork. Retries are ours.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from wlshard.errors import AccessDenied, NotFound, UsageError, WlshardError
from wlshard.store.base import Entry
from wlshard.store.bucket import PART_BYTES, TXN, BucketStore, Source
from wlshard.store.http import ranged
from wlshard.store.options import options_for
from wlshard.store.patience import Passing, Patience
from wlshard.store.stream import Get
from wlshard.store.wire import TIMEOUT_S, Answer, Body, no_answer, refusal

SENDERS = 4  # parts sent side by side
CLIENTS = 8  # kept: some 10 MB each, and credentials in the environment may change again and again
_BEGUN = ".upload/"  # how the names of drafts begin that are uploads
_PARTS = 9000  # of the 10,000 that S3 allows
_DENIED = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_ABSENT = {"NoSuchBucket", "NoSuchKey", "NoSuchUpload"}
_AGAIN = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "InternalError"}


class S3Store(BucketStore):
    """Objects below s3://bucket/prefix."""

    def getter(self, name: str) -> Get:
        key, url = self.key(name), self.url_of(name)

        def get(start: int, end: int | None, tag: str | None) -> Answer:
            params = {"Range": ranged(start, end)["range"]} if start or end is not None else {}
            if tag:
                params["IfMatch"] = tag
            found = self._call("get_object", url, Key=key, fine=(412, 416), **params)
            if isinstance(found, Refused):
                return found
            body = Body(found["Body"].__enter__(), url)  # urllib3's response
            self.heard(body.headers)
            return body

        return get

    def upload(self, key: str, source: Source, txn: str | None) -> bool:
        if source.bytes <= PART_BYTES:
            body = source.part(0, source.bytes)
            put = self._conditional("put_object", source, txn, Key=key, Body=body, **_mark(txn))
            return self.settled(key, source, txn, put)
        begun = self._patiently("create_multipart_upload", source.url, Key=key, **_mark(txn))
        upload = {"Key": key, "UploadId": begun["UploadId"]}
        done = False
        try:
            parts = {"Parts": self._send_parts(source, upload)}
            complete = self._conditional(
                "complete_multipart_upload", source, txn, MultipartUpload=parts, **upload
            )
            done = self.settled(key, source, txn, complete)
        finally:
            if not done:
                with suppress(WlshardError):
                    self._patiently("abort_multipart_upload", source.url, **upload)
        return done

    def _send_parts(self, source: Source, upload: dict[str, str]) -> list[dict[str, Any]]:
        size = max(PART_BYTES, -(-source.bytes // _PARTS))

        def send(number: int) -> dict[str, Any]:
            body = source.part((number - 1) * size, size)
            sent = self._patiently("upload_part", source.url, PartNumber=number, Body=body, **upload)
            source.sent(len(body))
            return {"PartNumber": number, "ETag": sent["ETag"]}

        with ThreadPoolExecutor(SENDERS, thread_name_prefix="wlshard upload") as threads:
            return list(threads.map(send, range(1, -(-source.bytes // size) + 1)))

    def _conditional(
        self, operation: str, source: Source, txn: str | None, **params: Any
    ) -> Callable[[], bool]:
        if txn is not None:
            params["IfNoneMatch"] = "*"

        def attempt() -> bool:
            fine = (404, 412) if txn is not None and "UploadId" in params else (412,)
            return not isinstance(self._call(operation, source.url, fine=fine, **params), Refused)

        return attempt

    def txn_of(self, key: str) -> str | None:
        mark = self._patiently("head_object", self.url, Key=key)["Metadata"].get(TXN)
        return None if mark is None else str(mark)

    def entries(self, prefix: str) -> Iterator[Entry]:
        more: dict[str, str] = {}
        while True:
            page = self._patiently("list_objects_v2", self.url, Prefix=prefix, **more)
            for item in page.get("Contents", ()):
                yield Entry(item["Key"], item["Size"], item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def drafts(self, prefix: str = "") -> Iterator[Entry]:
        """List, besides scratch, uploads that were begun and not ended: a kill leaves one, which costs."""
        yield from super().drafts(prefix)
        if not prefix:
            with suppress(AccessDenied, UsageError):  # not everybody may, not every server can
                yield from self._begun()

    def _begun(self) -> Iterator[Entry]:
        more: dict[str, str] = {}
        while True:
            page = self._patiently("list_multipart_uploads", self.url, Prefix=self._prefix, **more)
            for item in page.get("Uploads", ()):
                name = item["Key"][len(self._prefix) :]
                yield Entry(f"{_BEGUN}{item['UploadId']}/{name}", 0, item["Initiated"].timestamp())
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def drop(self, name: str) -> None:
        if not name.startswith(_BEGUN):
            super().drop(name)
            return
        upload, _, name = name.removeprefix(_BEGUN).partition("/")
        with suppress(NotFound):
            self._patiently(
                "abort_multipart_upload", self.url_of(name), Key=self._prefix + name, UploadId=upload
            )

    def look(self, name: str) -> Entry:
        found = self._patiently("head_object", self.url_of(name), Key=self.key(name))
        return Entry(name, found["ContentLength"], found["LastModified"].timestamp())

    def remove(self, key: str) -> None:
        with suppress(NotFound):
            self._patiently("delete_object", self.url, Key=key)

    def ask_date(self) -> None:
        with suppress(AccessDenied, NotFound):
            self._patiently("head_bucket", self.url)

    def _patiently(self, operation: str, url: str, **params: Any) -> dict[str, Any]:
        def attempt() -> dict[str, Any]:
            found = self._call(operation, url, **params)
            assert not isinstance(found, Refused)
            return found

        return Patience(url).patiently(attempt)

    def _call(
        self, operation: str, url: str, *, fine: tuple[int, ...] = (), **params: Any
    ) -> dict[str, Any] | Refused:
        """Make one request. Refused: an answer whose status is among `fine`."""
        from botocore import exceptions as their

        client, payer = _client(options_for(self.url))
        if operation == "head_bucket":
            payer = {}  # it has no such parameter
        try:
            found: dict[str, Any] = getattr(client, operation)(Bucket=self.bucket, **params, **payer)
        except their.ClientError as error:
            refused = Refused(error.response)
            self.heard(refused.headers)
            if refused.status in fine:
                return refused
            raise refused.meaning(url) from error
        except (their.HTTPClientError, their.ConnectionError) as error:
            raise no_answer(error, "endpoint", url) from error
        except their.NoCredentialsError as error:
            advice = "no AWS credentials were found: `aws configure`, or --storage-options anon=true"
            raise AccessDenied(advice, url=url) from error
        except their.BotoCoreError as error:
            raise UsageError(f"{type(error).__name__}: check bucket, region and options", url=url) from error
        self.heard(found["ResponseMetadata"]["HTTPHeaders"])
        return found


class Refused:
    """An answer that is no success, and has no body to read."""

    def __init__(self, response: dict[str, Any]) -> None:
        about = response.get("ResponseMetadata", {})
        self.status: int = about.get("HTTPStatusCode", 0)
        self.headers: Mapping[str, str] = about.get("HTTPHeaders", {})
        self.code = str(response.get("Error", {}).get("Code", ""))

    def meaning(self, url: str) -> WlshardError | Passing:
        if self.code in _DENIED:
            return AccessDenied(f"the server answered {self.code}: check your credentials", url=url)
        if self.code in _ABSENT:
            return NotFound(f"the server answered {self.code}: check bucket and name", url=url)
        status = 503 if self.code in _AGAIN else self.status
        return refusal(status, "" if self.code.isdigit() else self.code, url, self.headers)

    def readinto(self, target: memoryview, /) -> int:
        return 0

    def close(self) -> None:
        """Nothing is open."""

    stop = close


def _mark(txn: str | None) -> dict[str, Any]:
    return {} if txn is None else {"Metadata": {TXN: txn}}


_lock = threading.Lock()
_clients: dict[str, tuple[Any, dict[str, str]]] = {}


def _client(options: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Give the client for these options, the same as before, and what each of its requests says besides."""
    settings = [pair for pair in os.environ.items() if pair[0].startswith("AWS_")]
    key = repr((sorted(options.items()), sorted(settings)))
    with _lock:
        if key not in _clients:
            if len(_clients) >= CLIENTS:  # who uses the oldest at this moment goes on with it
                _clients.pop(next(iter(_clients)))[0].close()
            _clients[key] = _connect(options)
        return _clients[key]


def _connect(options: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError as error:
        raise UsageError("s3:// needs a further package: pip install 'wlshard[s3]'") from error
    if logging.getLogger("botocore").level == logging.NOTSET:
        logging.getLogger("botocore").setLevel(logging.INFO)  # its debug log shows what signs a request
    settings: dict[str, Any] = {
        "retries": {"total_max_attempts": 1},
        "max_pool_connections": 64,
        "connect_timeout": 20,
        "read_timeout": TIMEOUT_S,
        "request_checksum_calculation": "when_required",  # what speaks like S3 may not know the others
        "response_checksum_validation": "when_required",
        **options.get("config_kwargs", {}),
    }
    if options.get("anon"):
        settings["signature_version"] = UNSIGNED
    if options.get("http_proxy"):
        settings["proxies"] = dict.fromkeys(("http", "https"), options["http_proxy"])
    named = {"endpoint_url": "endpoint_url", "key": "aws_access_key_id", "secret": "aws_secret_access_key",
             "token": "aws_session_token", "region": "region_name"}  # fmt: skip
    given = {theirs: options[ours] for ours, theirs in named.items() if options.get(ours)}
    given |= options.get("client_kwargs", {})
    try:
        session = botocore.session.Session(profile=options.get("profile"))
        if not (given.get("region_name") or session.get_config_variable("region")):
            given["region_name"] = "us-east-1"  # the SDK is sent on to a bucket's own
        client = session.create_client("s3", config=Config(**settings), **given)
    except (botocore.exceptions.BotoCoreError, ValueError, TypeError) as error:
        raise UsageError(f"these S3 options make no client ({type(error).__name__}): check them") from error
    return client, {"RequestPayer": "requester"} if options.get("requester_pays") else {}


def forget_connections() -> None:
    """Close the connections that are kept for later."""
    with _lock:
        for client, _ in _clients.values():
            client.close()


def _leave_to_parent() -> None:
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
