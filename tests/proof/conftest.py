"""Where proofs are run: in memory, for no disk is needed; the loss of power is ours."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest
from disk import Disk


@pytest.fixture
def place() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="proof-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def new_disk(place: str) -> Callable[[], Disk]:
    def make() -> Disk:
        shutil.rmtree(f"{place}/pool", ignore_errors=True)
        os.mkdir(f"{place}/pool")
        return Disk(f"{place}/pool")

    return make
