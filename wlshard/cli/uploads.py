"""Uploads in parts, as bars on a terminal: stores log how far they have come."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Bars(logging.Handler):
    """A bar for each object that this process sends; what is forked from it draws none."""

    def __init__(self, new_bar: Callable[..., Any]) -> None:
        super().__init__()
        self._new_bar, self._process = new_bar, os.getpid()
        self._bars: dict[str, Any] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._process or not isinstance(record.args, tuple):
            return
        url, sent, size = record.args
        if url not in self._bars:
            self._bars[str(url)] = self._new_bar("B", size, desc=str(url).rpartition("/")[2])
        bar = self._bars[str(url)]
        bar.update(sent - bar.n)
        if sent == size:
            self._bars.pop(str(url)).close()

    def close(self) -> None:
        while self._bars:
            self._bars.popitem()[1].close()
        super().close()


@contextmanager
def uploads_shown(new_bar: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, show uploads of this process where stderr is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    log, bars = logging.getLogger("wlshard.store.uploads"), _Bars(new_bar)
    log.addHandler(bars)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(bars)
        log.propagate = True
        log.setLevel(logging.NOTSET)
        bars.close()
