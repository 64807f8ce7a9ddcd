"""Batches as torch's tensors, and on the device that trains: the next one is there when a step ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from wlshard.errors import UsageError
from wlshard.stream.ahead import ReadAhead

if TYPE_CHECKING:
    import torch

ALIGN_BYTES = 64


def converter(converters: str) -> Callable[[Any], Any] | None:
    """Give the function that makes tensors of arrays, for "torch"; None for "numpy". UsageError."""
    if converters not in ("numpy", "torch"):
        raise UsageError(f'converters={converters!r}: say "numpy" or "torch"')
    if converters == "numpy":
        return None
    try:
        import torch  # noqa: F401  # here, so that workers that are forked need not
    except ImportError:
        raise UsageError(
            'converters="torch" needs torch, which is not installed: pip install torch'
        ) from None
    return to_tensor


def to_tensor(value: Any) -> Any:
    """Give an array as a tensor that shares its memory; a copy if that is read-only.

    What torch has no dtype for (strings, records, another byte order) stays an array: nothing is cast.
    """
    import numpy as np  # samples() can do without
    import torch

    if not isinstance(value, np.ndarray):
        return value

    if value.dtype.hasobject or not value.dtype.isnative:
        return value
    try:
        return torch.from_numpy(value if value.flags.writeable else value.copy(order="K"))
    except (TypeError, ValueError):  # a dtype, or negative strides
        return value


class Batches(Protocol):
    """What is brought to a device: a Loader."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...

    def epochs(self, count: int | None = None) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Sent(NamedTuple):
    """A batch on its way, the event behind its copies, and the loader's state behind it."""

    batch: Any
    event: Any
    state: dict[str, Any]


class OnDevice:
    """Iterate over a loader's batches as tensors on a device, used as the loader is (`Loader.to`).

    On a GPU a thread takes the batches, lays each into page-locked memory and has it copied by a stream of
    its own, one batch ahead of the step that runs; a consumer's stream waits for the copy, the program does
    not. Held: two batches in page-locked memory, two on the device besides what the consumer keeps. On "cpu"
    tensors share the batches' memory, and nothing is read ahead here. What torch has no dtype for stays as
    it is. `state_dict()` stands behind the batch given last, whatever was read ahead. `close()` closes the
    loader too.
    """

    def __init__(self, loader: Batches, device: str | torch.device, copies: Copies | None = None) -> None:
        import torch

        self.device = torch.device(device)
        if copies is None and self.device.type not in ("cpu", "cuda"):
            raise UsageError(
                f'to({str(device)!r}): say "cpu" or "cuda"; for others, move the batches yourself'
            )
        self._loader = loader
        self._copies = copies
        self._state: dict[str, Any] | None = None  # None: the loader's
        self._source: Iterator[Sent] | None = None
        self._ahead: ReadAhead[Sent] | None = None
        self._waited_s = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(iter(self._loader))

    def epochs(self, count: int | None = None) -> Iterator[Any]:
        """Chain epochs as `Loader.epochs` does."""
        return self._iterate(self._loader.epochs(count))

    def _iterate(self, batches: Iterator[Any]) -> Iterator[Any]:
        self._stop()
        if self._copies is None and self.device.type == "cpu":
            for batch in batches:
                yield map_leaves(to_tensor, batch)
            return
        copies = self._copies = self._copies or Copies(self.device)
        source = self._source = self._send(batches, copies)
        ahead = self._ahead = ReadAhead(source, lambda _: 1, 2)
        try:
            for sent in ahead:
                copies.arrive(sent.batch, sent.event)
                self._state = sent.state
                given = [sent.batch]
                del sent
                yield given.pop()
                ahead.release(1)
            self._state = None
        finally:
            if self._ahead is ahead:
                self._stop()

    def _send(self, batches: Iterator[Any], copies: Copies) -> Iterator[Sent]:
        slots = [Slot(copies), Slot(copies)]
        with closing(batches):  # type: ignore[type-var]
            for number, batch in enumerate(batches):
                moved, event = slots[number % 2].send(map_leaves(to_tensor, batch))
                del batch  # its memory may be a worker's
                yield Sent(moved, event, self._loader.state_dict())

    def _stop(self) -> None:
        ahead, source, self._ahead, self._source = self._ahead, self._source, None, None
        if ahead is not None and source is not None:
            ahead.close()
            source.close()  # type: ignore[attr-defined]
            self._waited_s += ahead.waited_s

    def __len__(self) -> int:
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Give the resume point behind the batch given last."""
        return self._loader.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `iter()` give what the saved one had left."""
        self._stop()
        self._loader.load_state_dict(state)
        self._state = None

    def stats(self) -> dict[str, Any]:
        """Give the loader's stats; `device_waited_s`: what the consumer waited for batches to be sent."""
        under_way = 0.0 if self._ahead is None else self._ahead.waited_s
        return {**self._loader.stats(), "device_waited_s": self._waited_s + under_way}

    def close(self) -> None:
        """End reading ahead, and close the loader. Blocks for the batch under way."""
        self._stop()
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Copies:
    """The copy stream of a CUDA device: all that is asked of CUDA."""

    def __init__(self, device: torch.device) -> None:
        import torch

        self._cuda = torch.cuda
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._device = self._stream.device  # "cuda" is another one in another thread

    def memory(self, size: int) -> torch.Tensor:
        """Give page-locked bytes, from which the device copies by itself."""
        import torch

        with self._cuda.device(self._device):  # else a thread begins to use the first GPU, too
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def start(self, batch: Any) -> tuple[Any, Any]:
        """Begin to copy a batch of page-locked tensors; give it as it will be, and the event behind that."""
        with self._cuda.stream(self._stream):
            moved = map_leaves(lambda one: _moved(one, self._device), batch)
            return moved, self._stream.record_event()

    def arrive(self, batch: Any, event: Any) -> None:
        """Let the consumer's stream wait for a batch, and the allocator for the consumer's stream."""
        here = self._cuda.current_stream(self._device)
        here.wait_event(event)
        map_leaves(lambda one: one.record_stream(here) if is_tensor(one) else None, batch)


class Slot:
    """Page-locked memory for one batch: as large as the largest so far, written again once that has gone."""

    def __init__(self, copies: Copies) -> None:
        self._copies = copies
        self._memory: torch.Tensor | None = None
        self._event: Any = None
        self._used = 0

    def send(self, batch: Any) -> tuple[Any, Any]:
        """Lay a batch in and begin to copy it."""
        if self._event is not None:
            self._event.synchronize()
        sizes: list[int] = []
        map_leaves(lambda one: sizes.append(_room(one)) if is_tensor(one) else None, batch)
        if self._memory is None or sum(sizes) > len(self._memory):
            self._memory = self._copies.memory(sum(sizes))
        self._used = 0
        moved, self._event = self._copies.start(map_leaves(self._laid, batch))
        return moved, self._event

    def _laid(self, one: Any) -> Any:
        if not is_tensor(one) or one.device.type != "cpu":
            return one
        assert self._memory is not None
        at, self._used = self._used, self._used + _room(one)
        laid = self._memory[at : at + one.nbytes].view(one.dtype).view(one.shape)
        return laid.copy_(one)


def map_leaves(change: Callable[[Any], Any], batch: Any) -> Any:
    """Change the values of a batch; its dicts, tuples and lists stay what they are."""
    if isinstance(batch, dict):
        return {name: map_leaves(change, value) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_leaves(change, value) for value in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(map_leaves(change, value) for value in batch)
    return change(batch)


def is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=True) if is_tensor(value) else value


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // ALIGN_BYTES) * ALIGN_BYTES
