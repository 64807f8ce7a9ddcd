"""A crash after any call to the system: nothing that was promised is lost, torn or there twice."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from crash import KILLS, LOSSES, crashes, twice
from disk import Disk
from stories import STORIES, a_writer, retirements, rotations

# Where an fsync is covered by a later one before anybody is told, as far as one crash shows.
COVERED = {
    ("accounting", "_put"),
    ("generations", "_send"),
    ("generations", "commit"),
    ("retire", "_retire"),
    ("schema", "fix_schema"),
    ("seal", "_begun"),
    ("seal", "open_draft"),
}


def told(new_disk: Callable[[], Disk], story: Callable[[Disk], None]) -> Disk:
    disk = new_disk()
    with disk.noting():
        story(disk)
    return disk


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("losses", [KILLS, LOSSES], ids=["killed", "power lost"])
def test_nothing_is_lost_torn_or_twice_wherever_it_ends(new_disk, place, story, losses):
    disk = told(new_disk, story)
    assert list(crashes(disk, place, losses)) == []


@pytest.mark.parametrize("story", [a_writer, rotations, retirements])
def test_nor_where_a_process_was_killed_and_the_power_goes_while_another_takes_over(new_disk, place, story):
    assert list(twice(new_disk, place, story, range(0, 400, 11))) == []


@pytest.mark.long
@pytest.mark.parametrize("story", STORIES)
def test_nor_wherever_that_was(new_disk, place, story):
    assert list(twice(new_disk, place, story, range(400))) == []


def test_each_fsync_is_needed(new_disk, place):
    """Leave out one at a time: some crash must tell, but for those that another fsync covers."""
    sites = {call.site for story in STORIES for call in told(new_disk, story).calls if call.site}
    missed = {site for site in sites if is_missed(new_disk, place, site)}
    assert len(missed) >= 10
    covered = {re.findall(r"pool/(\w+)\.py:(\w+)", site)[-1] for site in sites - missed}
    assert covered <= COVERED


def test_what_a_killed_process_left_unsynced_is_synced_by_the_next(new_disk, place):
    def without() -> Disk:
        disk = new_disk()
        disk.skipped_site = next(site for site in sites if "_begun" in site)
        return disk

    sites = {call.site for call in told(new_disk, a_writer).calls}
    assert any(twice(without, place, a_writer, range(24, 27)))
    assert list(twice(new_disk, place, a_writer, range(24, 27))) == []


def test_a_missing_end_mark_is_found_out(new_disk, place, monkeypatch):
    monkeypatch.setattr("wlshard.shards.scratch.END_MARK", b"")
    assert any(crashes(told(new_disk, a_writer), place, KILLS))


def is_missed(new_disk: Callable[[], Disk], place: str, site: str) -> bool:
    def without() -> Disk:
        disk = new_disk()
        disk.skipped_site = site
        return disk

    for story in STORIES:
        disk = told(without, story)
        # What is not synced here is soon synced by another: later crashes do not tell.
        soon = {at + more for at in disk.skipped_at for more in range(12)}
        if any(crashes(disk, place, LOSSES[:4], sorted(at for at in soon if at <= len(disk.calls)))):
            return True
    return False
