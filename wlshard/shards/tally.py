"""What a reading met: counted, told, and stopped when nothing but failures comes."""

from __future__ import annotations

import logging

from wlshard.errors import TooManyBadSamples, WlshardError

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 100
TOLD_ONE_BY_ONE = 20


class Tally:
    """Counts over any number of shards; one thread at a time.

    `samples` handed out; `faults` met and gone past with on_error="skip", and samples `dropped` for them;
    `passed_over`: members that belong to no sample, by what they are (directories, symlinks, dotfiles, …).
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._told_one_by_one = 0 if quiet else TOLD_ONE_BY_ONE
        self.samples = 0
        self.faults = self.dropped = 0
        self.passed_over: dict[str, int] = {}
        self._streak = 0
        self._samples_then = 0

    def fault(self, error: WlshardError) -> None:
        """Count a failure that is gone past. The hundredth without a sample between: TooManyBadSamples."""
        self.faults += 1
        self._streak = self._streak + 1 if self.samples == self._samples_then else 1
        self._samples_then = self.samples
        if self.faults <= self._told_one_by_one:
            last = self.faults == self._told_one_by_one
            more = " (no more of these will be told one by one)" if last else ""
            log.warning("skipped: %s%s", error, more)
        if self._streak >= FAILURES_IN_A_ROW:
            raise TooManyBadSamples(
                f"{self._streak} failures in a row, the last: {error.message}",
                url=error.url,
                member=error.member,
                key=error.key,
                offset=error.offset,
            ) from error

    def passed(self, what: str) -> None:
        """Count a member that belongs to no sample."""
        self.passed_over[what] = self.passed_over.get(what, 0) + 1
