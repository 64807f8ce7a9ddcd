"""The parent's hold on one worker: its process, its end of the wire, the slots that it shares."""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import socket
import weakref
from collections import deque
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from wlshard.errors import WorkerDied
from wlshard.stream.data import Data
from wlshard.stream.recipe import Step
from wlshard.workers import wire
from wlshard.workers.main import PAGE_BYTES, SPENT, Back, Ended, Made
from wlshard.workers.memory import Bytes, Memory
from wlshard.workers.packing import laid_out
from wlshard.workers.slots import SLOTS, Packed, most_slots

LAST_S = 1.0  # what a worker that was told to end, or has closed its end, is given


class Slot:
    """A worker's slot as the parent sees it: steps that wait in it, arrays that the consumer has of it."""

    def __init__(self, number: int, memory: Memory | None, end: socket.socket) -> None:
        self.number = number
        self.memory = memory
        self.size = memory.size if memory else 0
        self._end = end
        self._word = pickle.dumps(Back(number, left=False))
        self._looked_at: weakref.ref[Bytes] | None = None
        self._freed = False

    @property
    def held(self) -> bool:
        """Whether the consumer, or a message not all given, has arrays here."""
        return self._looked_at is not None and self._looked_at() is not None

    def whole(self) -> Bytes | None:
        """Give its bytes. The worker has it back as soon as no array looks at them any more."""
        if self.memory is None:
            return None
        whole = self.memory.whole()
        self._freed, self._looked_at = False, weakref.ref(whole, self._free)
        return whole

    def leave(self) -> bool:
        """Leave the memory to who holds it; False: it was freed meanwhile."""
        self._looked_at = None  # from here on nothing calls _free
        return not self._freed

    def _free(self, _: object) -> None:
        """Give it back. Called where the last array goes: in any thread, also at exit.

        In a forked child, too, but there the wire is closed.
        """
        sent: list[int] = []
        try:
            self._freed = True
            with suppress(OSError):
                sent.extend(map(self._end.send, [self._word], [socket.MSG_DONTWAIT]))  # nothing comes between
        except KeyboardInterrupt:  # Python would print it here and go on
            if not sent:
                with suppress(OSError):
                    self._end.send(self._word, socket.MSG_DONTWAIT)
            _thread.start_new_thread(_thread.interrupt_main, ())  # comes when this call is over


class Worker:
    """One worker process. `inbox`: words of the turn under way that were not looked at yet."""

    def __init__(
        self, number: int, process: BaseProcess, end: socket.socket, cord: socket.socket, data: Data
    ) -> None:
        assert process.pid is not None
        self.number = number
        self.end = end
        self._cord = cord  # closed, it ends a process that is not ready yet
        self.pidfd = os.pidfd_open(process.pid)
        self.pid = process.pid
        self.data = data  # that it has
        self.inbox: deque[Made | Ended] = deque()
        self.damage = 0
        self.spent: tuple[float, ...] = (0.0,) * len(SPENT)
        self._process = process
        self._page = -1
        self._slots: dict[int, Slot] = {}
        self._whole: Bytes | None = None  # of the message whose steps are being given
        self._given = 0  # of them

    def tell(self, word: object) -> None:
        """Send a word. One that is dead will be found so; WorkerDied if it has not listened for hundreds."""
        try:
            wire.send(self.end, word, wait=False)
        except (wire.Gone, OSError) as error:
            if isinstance(error, BlockingIOError):
                raise WorkerDied(
                    f"worker {self.number} (process {self.pid}) does not listen any more"
                ) from error

    def hear(self, turn: int) -> None:
        """Take in all that has arrived; what is of an earlier turn is given back."""
        with suppress(BlockingIOError):
            while True:
                word, fds = wire.receive(self.end, wait=False)
                self._take_in(word, fds, turn)

    def _take_in(self, word: Any, fds: list[int], turn: int) -> None:
        if isinstance(word, int):
            self._page = fds[0]
            return
        if isinstance(word, Made):
            if fds:
                self._slots[word.slot] = Slot(word.slot, Memory(fds[0], word.size), self.end)
                os.close(fds[0])
            elif word.slot not in self._slots:
                self._slots[word.slot] = Slot(word.slot, None, self.end)
            for number in word.dropped:
                self._slots.pop(number, None)
            self.damage, self.spent = word.damage, word.spent
            if word.turn != turn:
                self.tell(Back(word.slot, left=False))
        if word.turn == turn:
            self.inbox.append(word)

    def give(self) -> Step | Ended:
        """Unpack the next step in the inbox: its arrays lie in the slot."""
        word = self.inbox[0]
        if isinstance(word, Ended):
            return word
        slot = self._slots[word.slot]
        if not self._given:
            self._whole = slot.whole()
        packed = word.steps[self._given]
        self._given += 1
        whole = self._whole
        if self._given == len(word.steps):
            self.inbox.popleft()
            self._whole, self._given = None, 0
            if slot.memory is None:
                self.tell(Back(word.slot, left=False))
        return Step(_unpacked(packed, whole), packed.samples, packed.padded, packed.skipped)

    def leave_slots(self) -> int:
        """Leave the oldest slots to the consumer if it holds so many that the worker cannot go on."""
        if len(self._slots) < SLOTS or self.inbox:
            return 0
        held = {number: slot.size for number, slot in self._slots.items() if slot.held}
        left = 0
        while len(held) >= most_slots(list(held.values())):
            oldest = min(held)
            del held[oldest]
            if self._slots[oldest].leave():
                del self._slots[oldest]
                self.tell(Back(oldest, left=True))
                left += 1
        return left

    def forget_turn(self) -> None:
        """Give back what waits in the inbox."""
        if self._given:  # the rest of this one goes back with what was given of it
            self._whole, self._given = None, 0
            word = self.inbox.popleft()
            if isinstance(word, Made) and self._slots[word.slot].memory is None:
                self.tell(Back(word.slot, left=False))
        for word in self.inbox:
            if isinstance(word, Made):
                self.tell(Back(word.slot, left=False))
        self.inbox.clear()

    def slot_bytes(self) -> int:
        """Count the bytes of the slots shared with the worker."""
        return sum(slot.size for slot in self._slots.values())

    def died(self) -> WorkerDied:
        """Say how the process ended, and what it was at."""
        self._process.join(LAST_S)
        code = self._process.exitcode
        url, key = self._last_words()
        how, advice = "is ending without a word", "look at what it printed"
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
            advice = "if memory ran out, dmesg says so: take fewer workers or smaller batches"
            if -code in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
                advice = "a library crashed on this sample: read it with workers=0 to see where"
            if -code == signal.SIGBUS:
                advice = "a shard was made shorter while it was read, or its disk failed: verify it"
        elif code is not None:
            how = f"ended by itself with exit code {code}"
            if self._page < 0 and code:  # before its first word
                advice = (
                    "unless it is forked it imports this program again, which must be a file and do its work "
                    'under `if __name__ == "__main__":`; see what it printed, or use start_method="fork"'
                )
        return WorkerDied(f"worker {self.number} (process {self.pid}) {how}: {advice}", url=url, key=key)

    def is_stopped(self) -> bool:
        """Tell whether a signal has stopped the process; a debugger has not."""
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"

    def hangs(self, waited_s: float) -> WorkerDied:
        """Say what a worker that gives nothing is at."""
        url, key = self._last_words()
        advice = "see what its transform waits for, or raise timeout_s"
        if self.is_stopped():
            advice = "a signal (SIGSTOP, SIGTSTP) has stopped it: see who sent that to it alone"
        return WorkerDied(
            f"worker {self.number} (process {self.pid}) gave nothing for {waited_s:.0f} s: {advice}",
            url=url,
            key=key,
        )

    def _last_words(self) -> tuple[str | None, str | None]:
        if self._page < 0:
            return None, None
        url, key, *_ = [*os.pread(self._page, PAGE_BYTES, 0).split(b"\0"), b"", b""]
        return url.decode("utf-8", "replace") or None, key.decode("utf-8", "replace") or None

    def hang_up(self) -> None:
        """Tell the worker to end, by closing the wire and a signal. The consumer keeps what it holds."""
        for slot in self._slots.values():
            slot.leave()
        self._slots.clear()
        self.inbox.clear()
        self._whole = None
        with suppress(OSError):
            self.end.shutdown(socket.SHUT_RDWR)  # for whoever has inherited a copy of it, too
        self.end.close()
        self._cord.close()
        with suppress(ProcessLookupError):
            for number in (signal.SIGTERM, signal.SIGCONT):  # it may wait for data, or be stopped
                signal.pidfd_send_signal(self.pidfd, number)

    def end_by(self, seconds_left: float) -> None:
        """See to the end of the process: by itself if it is quick, else it is killed."""
        self._process.join(max(0.0, seconds_left))
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        self.forget()

    def forget(self) -> None:
        """Let go of what this process has of the worker."""
        self.end.close()
        self._cord.close()
        for fd in (self.pidfd, self._page):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self._page = -1


def _unpacked(packed: Packed, whole: Bytes | None) -> Any:
    """Make a batch of what lies in a slot."""
    if packed.plain and packed.head is not None:
        places = zip(laid_out(packed.head), packed.places, strict=True)
        return tuple([np.ndarray(shape, dtype, whole, at) for (shape, dtype), (at, _) in places])
    memory = np.empty(0, np.uint8) if whole is None else whole
    views = [memory[at : at + size] for at, size in packed.places]
    head = views.pop().data if packed.head is None else packed.head
    return pickle.loads(head, buffers=views)  # noqa: S301 — from a process of our own
