"""The pool's proof on buckets: a stop at any request, others between any two; nothing is lost, torn or twice.

A request of this process to a bucket is a call of urllib3's `urlopen`, whoever makes it (ours, an SDK).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest
from crash import end_process, lost
from disk import Dead
from invariants import look
from stories import a_writer, create, pins, retire, retirements, rotate, rotations, take_over, write
from urllib3.connectionpool import HTTPConnectionPool

from wlshard.errors import NotFound, WlshardError
from wlshard.pool.pool import Pool
from wlshard.store.connect import connect
from wlshard.store.draft import LocalDraft

Story = Callable[["Bucket"], object]


class Bucket:
    """A pool in a bucket, what its users were told, and what happens at its requests."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.told: list[str] = []
        self.requests = 0

    mark = property(lambda self: self.told.append)

    @contextmanager
    def met(self, at: int, before: Callable[[], object], after: Callable[[], object]) -> Iterator[None]:
        """Let something happen before request `at` inside the block is sent, or after it was answered."""
        self.requests, send = 0, HTTPConnectionPool.urlopen

        def urlopen(pool: Any, *args: Any, **options: Any) -> Any:
            self.requests += 1
            number = self.requests
            if number == at:
                before()
            answer = send(pool, *args, **options)
            if number == at:
                try:
                    after()
                except Dead:
                    answer.close()  # nobody else will
                    raise
            return answer

        with patch.object(HTTPConnectionPool, "urlopen", urlopen):
            yield

    def objects(self) -> dict[str, bytes]:
        store = connect(self.root)
        return {entry.name: store.read(entry.name) for entry in store.list()}


def dies(bucket: Bucket, story: Story, at: int, *, heard: bool) -> bool:
    """Tell a story whose process dies at a request: sent (heard), or not. False: it ended before."""
    dead = False

    def die() -> None:
        nonlocal dead
        dead = True
        raise Dead

    def sends(pool: Any, *args: Any, **options: Any) -> Any:
        if dead:
            raise Dead
        return send(pool, *args, **options)

    def discard(draft: LocalDraft) -> None:
        draft.abandon() if dead else real(draft)

    send, real = HTTPConnectionPool.urlopen, LocalDraft.discard
    with (
        patch.object(HTTPConnectionPool, "urlopen", sends),
        patch.object(LocalDraft, "discard", discard),
        bucket.met(at, nothing if heard else die, die if heard else nothing),
        suppress(Dead),
    ):
        story(bucket)
    end_process()
    return dead


def nothing() -> None:
    pass


def faults_of_stops(url: str, story: Story, stops: Iterable[int]) -> Iterator[str]:
    """Stop a story at each of these requests, in both ways; look, let another take over, look again."""
    for at in stops:
        for heard in (False, True):
            bucket = Bucket(f"{url}/{at}-{heard}")
            if not dies(bucket, story, at, heard=heard):
                return
            where = f"request {at}, {'answered' if heard else 'not sent'}"
            before = look(bucket.objects(), bucket.told)
            try:
                take_over(bucket)
            except WlshardError as error:
                yield f"{where}: I8: recovery needs a hand: {error}"
                continue
            after = look(bucket.objects(), bucket.told)
            scratch = [f"I8: {entry.name} was left" for entry in connect(bucket.root).drafts()]
            yield from (
                f"{where}: {it}" for it in before.faults + after.faults + lost(before, after) + scratch
            )


@pytest.fixture(params=["s3", "gs"])
def url(request: pytest.FixtureRequest, moto: str, gcs_stub: str) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


STORIES = [a_writer, rotations, retirements, pins]


@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_torn_or_twice_at_some_requests_it_ends(url: str, story: Story) -> None:
    assert list(faults_of_stops(url, story, range(19, 1000, 97))) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_torn_or_twice_at_whichever_request_it_ends(url: str, story: Story) -> None:
    assert list(faults_of_stops(url, story, range(1, 1000))) == []


def pin(bucket: Bucket) -> None:
    """Pin the generation that is being retired, if it is not too late."""
    oldest = Pool(bucket.root).newest().generation - 2
    with suppress(NotFound):
        bucket.mark(f"pinned {Pool(bucket.root).pin('best', oldest)}")


def unpin(bucket: Bucket) -> None:
    bucket.told = [what for what in bucket.told if not what.startswith("pinned")]
    Pool(bucket.root).unpin("best")


PAIRS: dict[str, tuple[Story, Story]] = {
    "rotate × rotate": (rotate, rotate),
    "rotate × retire": (rotate, retire),
    "retire × rotate": (retire, rotate),
    "retire × retire": (retire, retire),
    "retire × pin": (retire, pin),
}


def faults_of_meetings(url: str, one: Story, other: Story, step: int) -> Iterator[str]:
    """Let one act, the other at its requests: before one is sent, and before the answer is heard."""
    bucket = Bucket(url)
    create(bucket)
    for at in count(1, step):
        for late in (False, True):
            write(bucket, f"{at}{late}/", 2)
            if one is retire:
                rotate(bucket)
            act = partial(other, bucket)
            with bucket.met(at, nothing if late else act, act if late else nothing):
                one(bucket)
            if at > bucket.requests:
                return
            seen = look(bucket.objects(), bucket.told)
            faults = seen.faults + [f"I2: {name} waits" for name in seen.waiting if rotate in (one, other)]
            yield from (f"request {at} of {one.__name__}: {it}" for it in faults)
            if other is pin:
                unpin(bucket)
            bucket.told.clear()
            retire(bucket)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_at_once(url: str, pair: str) -> None:
    assert list(faults_of_meetings(url, *PAIRS[pair], 11)) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("pair", PAIRS)
def test_two_at_once_whichever_request_they_meet_at(url: str, pair: str) -> None:
    assert list(faults_of_meetings(url, *PAIRS[pair], 1)) == []


def test_a_bucket_that_ignores_create_if_absent_is_found_out(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = HTTPConnectionPool.urlopen

    def unconditional(pool: Any, method: str, url: str, *args: Any, **options: Any) -> Any:
        headers = {k: v for k, v in options.pop("headers").items() if k.lower() != "if-none-match"}
        url = re.sub("&?ifGenerationMatch=0", "", url)
        return send(pool, method, url, *args, headers=headers, **options)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", unconditional)
    assert any(faults_of_meetings(url, rotate, rotate, 4))
