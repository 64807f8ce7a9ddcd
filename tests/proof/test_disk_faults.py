"""A disk full, broken, read-only or far away, at any call: a clear error, and the next run finishes."""

from __future__ import annotations

import errno

import pytest
from clocks import Skipping
from crash import faulted
from stories import STORIES

from wlshard import clock

ERRNOS = [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE]


def faults(new_disk, story, number: int, done: bool, step: int, first: int = 0) -> list[str]:
    found = []
    with clock.use(Skipping()):
        for at in range(first, 1000, step):
            disk = new_disk()
            disk.fails = at, number, done
            with disk.noting():
                found += [
                    f"at call {at}, {errno.errorcode[number]}: {fault}" for fault in faulted(disk, story)
                ]
            if disk.fails is not None:
                break  # the story ended before
    return found


@pytest.mark.parametrize("story", STORIES)
def test_a_call_that_fails_is_a_clear_error_and_loses_nothing(new_disk, story):
    for turn, number in enumerate(ERRNOS):
        assert faults(new_disk, story, number, False, 2 * len(ERRNOS), 2 * turn) == []


@pytest.mark.parametrize("story", STORIES)
def test_a_call_that_succeeds_and_is_reported_as_failed_does_no_harm(new_disk, story):
    """As on a network file system whose reply was lost: the retry finds its own work."""
    assert faults(new_disk, story, errno.EIO, True, 5) == []


@pytest.mark.long
@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("number", ERRNOS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
def test_wherever_a_call_fails(new_disk, story, number, done):
    assert faults(new_disk, story, number, done, 1) == []
