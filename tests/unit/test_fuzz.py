"""Random damage to headers, frames and indexes: a little here, for minutes in `.ci/long`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import environ

fuzzing = pytest.importorskip(
    "fuzzing", reason="zstandard and lz4 are not installed: pip install 'wlshard[fast]'"
)
LONG_S = 300


@pytest.mark.parametrize("attack", fuzzing.ATTACKS, ids=lambda attack: attack.__name__)
def test_damage_gives_the_same_samples_or_an_error(attack: Callable[[random.Random], bool]) -> None:
    told = [attack(random.Random(seed)) for seed in range(400)]
    assert any(told)


@pytest.mark.long
@pytest.mark.timeout(LONG_S + 120)
def test_damage_for_minutes_in_a_gibibyte() -> None:
    seed = str(int.from_bytes(os.urandom(4)))
    words = [sys.executable, Path(__file__).with_name("fuzzing.py"), str(LONG_S), seed]
    done = subprocess.run(words, env=environ(), capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
