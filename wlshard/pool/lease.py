"""A reader's hold on a generation: put, looked after, renewed, and ended by the reader's own clock."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable

from wlshard import clock, seeds
from wlshard.errors import AccessDenied, LostLease, StoreUnavailable, WlshardError
from wlshard.pool import accounting
from wlshard.pool.accounting import Accounting
from wlshard.pool.names import this_host

log = logging.getLogger(__name__)

PART = 3  # of the ttl: how often a lease is renewed
DAY_S = 86_400.0
RETRY = 10  # of that part: how soon again if the store does not answer


class Lease:
    """One reader's lease on one generation, from `take` to `close`; a thread renews it meanwhile.

    First the lease is put, then `is_open` looks whether the generation may still be read: so whoever retires
    it either sees the lease or has condemned the generation before the look. It ends `ttl_s` after its last
    renewal that was answered in time was sent, and never comes back: `check` raises LostLease then. Without
    write access there is none, which is said once, and `check` never raises.

    pin: name and days of the holder's own, put by it when the lease is taken; it is renewed along with it.
    """

    def __init__(
        self,
        accounts: Accounting,
        generation: int,
        is_open: Callable[[], bool],
        ttl_s: float | None = None,
        pin: tuple[str, float] | None = None,
    ) -> None:
        self.generation = generation
        self.reader = f"{this_host()}-{os.getpid()}-{seeds.fresh_seed():016x}"
        self.ttl_s = accounting.TTL_S if ttl_s is None else ttl_s
        self._accounts = accounts
        self._is_open = is_open
        self._pin, self._pinned = pin, math.inf
        self._ends = -math.inf  # by `clock.elapsed`
        self._held = False  # the store has taken it
        self._served, self._waited_s = 0, 0.0
        self._lock = threading.RLock()  # not a plain one: the garbage collector may close us anywhere
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def alive(self) -> bool:
        """Tell whether what the generation names cannot be deleted now; True if we may not hold it at all."""
        return clock.elapsed() < self._ends

    def check(self) -> None:
        """Raise LostLease once the lease has ended."""
        if clock.elapsed() >= self._ends:
            raise LostLease(
                f"the lease on generation {self.generation} ended: it was not renewed for {self.ttl_s:.0f} s "
                "(this process was stopped, or the store away); begin again, with what is newest"
            )

    def take(self) -> bool:
        """Put the lease, then look. False: the generation is being retired, take a newer one.

        A store that does not answer is said, and asked again by the thread; so long there is no lease.
        """
        sent = self._pinned = clock.elapsed()
        try:
            writable = self._put(self.ttl_s, seen=True)
        except StoreUnavailable as error:
            log.warning("generation %d is read without a lease for now: %s", self.generation, error)
            writable, sent = True, math.inf
        else:
            self._held = writable
            opened = False
            try:
                opened = not writable or self._is_open()
            finally:
                if not opened:
                    self.close()
            if not opened:
                return False
        self._ends = sent + self.ttl_s if writable else math.inf
        if writable and self._thread is None:
            self._thread = threading.Thread(target=self._keep, name="wlshard-lease", daemon=True)
            self._thread.start()
        return True

    def renew(self) -> None:
        """Write the lease anew; it counts if the answer comes before its end. StoreUnavailable: none came."""
        with self._lock:
            if not self.alive:
                return
            sent = clock.elapsed()
            if not self._put(self.ttl_s):
                self._ends, self._held = math.inf, False
            elif self._held:
                if self.alive:
                    self._ends = sent + self.ttl_s
                    self._renew_pin(sent)
            else:  # the first that the store takes
                self._ends = sent + self.ttl_s if self._is_open() else -math.inf
                self._held = True

    def _renew_pin(self, now: float) -> None:
        if self._pin is not None and now - self._pinned >= self._pin[1] * DAY_S / PART:
            self._accounts.pin(self.generation, self._pin[0], self._pin[1] * DAY_S)
            self._pinned = now

    def note(self, samples: int, waited_s: float) -> None:
        """Count what was given to the consumer; the thread writes it down, for the store may be slow."""
        self._served, self._waited_s = self._served + samples, self._waited_s + waited_s
        if self.alive and self._thread is not None and self._thread.is_alive():
            self._wake.set()
        elif self._lock.acquire(blocking=False):
            try:
                self.renew() if self.alive else self._put(0.0)
            except StoreUnavailable as error:
                log.warning("what is served is not counted for now: %s", error)
            finally:
                self._lock.release()

    def close(self) -> None:
        """Let go; the note of what was served stays. Blocks for a renewal under way."""
        if self._pid != os.getpid():
            return  # the parent's, whose thread may have held these locks at the fork
        self._stop.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        with self._lock:
            held, self._held, self._ends = self._held, False, -math.inf
            try:
                if held and self._served:
                    self._put(0.0)
                elif held:
                    self._accounts.drop(self.generation, self.reader)
            except (StoreUnavailable, AccessDenied) as error:
                log.warning("a lease stays for %.0f s: %s", self.ttl_s, error)

    def _put(self, ttl_s: float, *, seen: bool = False) -> bool:
        return self._accounts.record(
            self.reader, self.generation, self._served, self._waited_s, ttl_s, seen=seen
        )

    def _keep(self) -> None:
        """Renew until closed or ended, and when there is something to note; whatever hinders it is said."""
        while True:
            self._wake.wait(self.ttl_s / PART)
            self._wake.clear()
            if self._stop.is_set():
                return
            try:
                self.renew()
            except WlshardError as error:
                left = self._ends - clock.elapsed()
                log.warning("the lease on generation %d is not renewed: %s", self.generation, error)
                if left < math.inf:
                    log.warning("it ends in %.0f s", max(0.0, left))
                self._stop.wait(self.ttl_s / PART / RETRY)
                self._wake.set()
            if not self.alive:
                log.error("the lease on generation %d ended", self.generation)
                return
