"""Notice a key that comes back."""

from __future__ import annotations

from array import array
from bisect import bisect_left


class Keys:
    """The keys of a shard so far, as Python's 64-bit hashes: of a million, two collide with probability 3e-8.

    8 bytes a key while they ascend; from the first that does not, sorted, with the newest in a set: about 20
    bytes a key, 70 while these are sorted in. While they are `ascending` whoever is in a hurry may put a key
    above `last` there, and its hash to the `hashes`.
    """

    def __init__(self) -> None:
        self.last = b""
        self.ascending = True
        self.hashes = array("q")
        self._recent: set[int] = set()

    def add(self, key: bytes) -> bool:
        """Take in the next key; False if it was there before."""
        if self.ascending:
            if key > self.last:
                self.last = key
                self.hashes.append(hash(key))
                return True
            self.ascending = False
            self._sort_in()
        mark, hashes, recent = hash(key), self.hashes, self._recent
        if mark in recent:
            return False
        place = bisect_left(hashes, mark)
        if place < len(hashes) and hashes[place] == mark:
            return False
        recent.add(mark)
        if len(recent) > 1024 + len(hashes) // 16:
            self._sort_in()
        return True

    def extend(self, keys: list[bytes]) -> None:
        """Take in keys that ascend from `last` on, while all before did."""
        self.hashes.extend(map(hash, keys))
        self.last = keys[-1]

    def _sort_in(self) -> None:
        self.hashes = array("q", sorted([*self.hashes, *self._recent]))
        self._recent.clear()
