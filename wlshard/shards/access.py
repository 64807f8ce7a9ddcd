"""A shard that tells its count and gives any run of samples, through its index."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import Self

from wlshard.errors import NotFound, TarError, UsageError, WlshardError
from wlshard.sample import Sample, split_name
from wlshard.shards.grouping import Grouper
from wlshard.shards.reader import OnError, open_shard, read_samples, reopens
from wlshard.shards.scanned import scanned_index
from wlshard.shards.tally import Tally
from wlshard.store.base import Reader
from wlshard.store.connect import local_path, locate
from wlshard.tar.blocks import Blocks
from wlshard.tar.index import Index, index_name, parse_index
from wlshard.tar.links import LinkTable
from wlshard.tar.rare import HEADER_BYTES
from wlshard.tar.reader import scan
from wlshard.tar.tape import MAX_MEMBER_BYTES

READ_AHEAD_BYTES = 1 << 20  # at least; in the kernel's page cache


class ShardAccess:
    """One shard, opened at first use: its count of samples, any run of them, or all from one on.

    The index is the `.idx` beside the shard; a local shard without one is scanned once (headers only) and
    what was found is kept in `cache_dir` (default `$XDG_CACHE_HOME/wlshard/index`), never beside it. A remote
    shard without one, and a compressed one, can only stream: `seekable` is False. A compressed local shard
    can count, in one pass over it; of others `samples` is None.

    `on_error="skip"` counts and leaves out what a scan finds damaged. Holds 8 bytes a sample, and one run's
    bytes as long as its samples live. Not for several threads at once.
    """
