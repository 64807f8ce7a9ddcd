"""Batches on a device. No GPU is asked for: a stream that copies as late as it may stands in for CUDA's."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from loading import write_shards
from processes import until

from wlshard import Loader, UsageError
from wlshard.device import OnDevice, map_leaves
from wlshard.testing.resume import check_resume
from wlshard.testing.values import same


class Late:
    """Copies nothing before the host waits for it: a slot that is written again too early gives garbage."""

    def __init__(self) -> None:
        self.started = 0
        self.arrived: list[object] = []
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._lock = threading.Lock()

    def memory(self, size: int) -> torch.Tensor:
        return torch.full((size,), 255, dtype=torch.uint8)

    def start(self, batch):
        def moved(value):
            if not isinstance(value, torch.Tensor):
                return value
            there = torch.zeros_like(value)
            with self._lock:
                self._waiting.append((there, value))
            return there

        self.started += 1
        return map_leaves(moved, batch), self

    def synchronize(self) -> None:
        with self._lock:
            for there, here in self._waiting:
                there.copy_(here)
            self._waiting.clear()

    def arrive(self, batch, event) -> None:
        """Let the consumer's stream wait, not the host."""
        self.arrived.append(batch["__key__"])


def ragged(sample: dict) -> dict:
    """Fields of every kind; some batches are larger than those before."""
    number = sample["n.index"]
    return {
        "__key__": sample["__key__"],
        "number": number,
        "image": np.full((3, 4), number, np.float32),
        "sides": np.arange(number % 3),
        "flag": bool(number % 2),
        "raw": bytes(sample["raw"]),
    }


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return write_shards(tmp_path / "x", 3, 50)


def loader(folder: str, **options) -> Loader:
    return Loader(folder, **{"batch_size": 4, "shuffle": 24, "transform": ragged, **options})


def arrays(batch):
    return map_leaves(lambda value: value.numpy() if isinstance(value, torch.Tensor) else value, batch)


class Arrays(OnDevice):
    """Gives arrays again, to compare."""

    def __iter__(self):
        for batch in super().__iter__():
            self._copies.synchronize()
            yield arrays(batch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("converters", ["numpy", "torch"])
def test_batches_arrive_whole_and_in_order_in_every_epoch(folder, converters, workers) -> None:
    with loader(folder) as plain:
        expected = [list(plain) for _ in range(2)]
    late = Late()
    with OnDevice(loader(folder, workers=workers, converters=converters), "cpu", late) as batches:
        assert len(batches) == 13
        found = [list(batches) for _ in range(2)]  # the host runs ahead of all copies
        late.synchronize()
        assert late.arrived == [batch["__key__"] for epoch in found for batch in epoch]
        assert all(isinstance(batch["image"], torch.Tensor) for epoch in found for batch in epoch)
        assert same([[arrays(batch) for batch in epoch] for epoch in found], expected)
        assert batches.stats()["device_waited_s"] >= 0


def test_the_next_batch_is_sent_while_the_consumer_works(folder) -> None:
    late = Late()
    with OnDevice(loader(folder), "cpu", late) as batches:
        for number, _ in enumerate(batches, 1):
            assert late.started <= number + 1  # not more than was announced
            until(lambda number=number: late.started == min(number + 1, 13), "the next batch")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_state_stands_behind_what_was_given_not_what_was_read_ahead(folder, workers) -> None:
    options = {"workers": workers, "converters": "torch"}
    check_resume(lambda: Arrays(loader(folder, **options), "cpu", Late()), every=3)


def test_an_iteration_that_is_broken_off_is_followed_by_the_next_epoch(folder) -> None:
    with loader(folder) as plain:
        expected = [list(plain) for _ in range(2)]
    with Arrays(loader(folder, workers=1), "cpu", Late()) as batches:
        for _ in batches:
            break
        assert batches.state_dict()["next_batch"] == 1
        assert same(list(batches), expected[1])
        next(iter(batches))


def test_an_error_comes_where_its_batch_would(folder) -> None:
    def bad(sample):
        if sample["n.index"] == 9:
            raise ValueError("nine")
        return sample

    with OnDevice(loader(folder, shuffle=0, transform=bad), "cpu", Late()) as batches:
        steps = iter(batches)
        assert [len(next(steps)["__key__"]) for _ in range(2)] == [4, 4]
        with pytest.raises(ValueError, match="nine"):
            next(steps)


def test_on_the_cpu_tensors_share_the_memory_of_the_batches(folder) -> None:
    kept = []

    def keep(batch):
        kept.append(batch["image"])
        return batch

    with loader(folder, batch_transform=keep).to("cpu") as batches:
        for batch in batches:
            assert np.shares_memory(batch["image"].numpy(), kept.pop())
            assert not kept  # nothing is read ahead


def test_a_device_that_is_not_known_is_refused_at_once(folder) -> None:
    with loader(folder) as plain, pytest.raises(UsageError, match='"cuda"'):
        plain.to("meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_on_a_gpu(folder, workers) -> None:
    with loader(folder) as plain:
        expected = [list(plain) for _ in range(2)]
    with loader(folder, workers=workers).to("cuda") as batches:
        found = [[map_leaves(cpu, batch) for batch in batches] for _ in range(2)]
    assert same(found, expected)


def cpu(value):
    if not isinstance(value, torch.Tensor):
        return value
    assert value.is_cuda
    return value.cpu().numpy()
