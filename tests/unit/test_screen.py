"""A pool's state as a screen, with a terminal and without."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from loading import fill_pool
from processes import environ

from wlshard.report.screen import BAR, HOME, drawn, screen

WATCH = [sys.executable, "-P", "-m", "wlshard.cli.info"]


def state_of(tmp_path: Path):
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    fill_pool(pool.url, range(30, 40))
    lease = pool.lease(2)
    lease.take()
    lease.note(25, 1.5)
    lease.renew()
    pool.pin("best", 1)
    state = pool.status().as_json()
    lease.close()
    return state


def test_it_tells_every_number_and_who_holds_what(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    text = "\n".join(screen(state))
    rows = {line[:14].strip(): line[14:] for line in text.splitlines() if line[:1].islower()}
    assert rows["read pool"].split()[0] == "10"
    assert rows["sealed in all"].split() == ["40", "40", "promoted"]
    assert rows["reuse"].split()[0] == "2.50"
    assert rows["served"].split()[0] == "25"
    assert rows["never read"].split()[:2] == ["0%", "·" * BAR]
    assert "generation 1 held by pin best" in text
    assert "generation 2 held by " in text


def test_names_from_the_pool_are_data_never_control(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    state["leases"][0]["holder"], state["leases"][0]["pin"] = "x\x1b[2J", None
    assert "\x1b" not in "\n".join(screen({**state, "pool": "p\x1b]0;x"}))


def test_of_many_holders_the_newest_are_shown(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    state["leases"] = [{"generation": n, "holder": "h", "pin": None, "left_s": 1.0} for n in range(50)]
    lines = list(screen(state))
    assert lines[-1] == "and by 42 more"
    assert "generation 49" in lines[-9]


def test_no_more_is_drawn_than_the_terminal_holds() -> None:
    text = drawn(["a" * 100, "b", "c", "d"], columns=20, rows=4)
    lines = text.removeprefix(HOME).split("\n")
    assert [line.replace("\x1b[K", "") for line in lines] == ["a" * 19, "b", "c", "\x1b[J"]


def test_on_a_terminal_it_is_drawn_in_place_elsewhere_one_below_the_other(tmp_path: Path) -> None:
    pool = fill_pool(str(tmp_path / "pool"), range(30))
    ours, theirs = pty.openpty()
    with subprocess.Popen([*WATCH, pool.url, "--watch", "0.01"], stdout=theirs, env=environ()) as watching:
        os.close(theirs)
        seen = b""
        while seen.count(HOME.encode()) < 4:
            seen += os.read(ours, 65536)
        watching.send_signal(signal.SIGINT)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:
            pass
    os.close(ours)
    assert watching.returncode == 130
    assert b"read pool" in seen
    with subprocess.Popen(
        [*WATCH, pool.url, "--watch", "0.01"], stdout=subprocess.PIPE, env=environ()
    ) as watching:
        seen = b"".join(watching.stdout.readline() for _ in range(40))
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
    assert b"\x1b" not in seen
    assert seen.count(b"read pool") >= 2
