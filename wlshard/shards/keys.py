"""Notice a key that comes back."""

from __future__ import annotations

from array import array


class Keys:
    """The keys of a shard so far: 8 bytes each while they ascend, about 100 in a set once they do not.

    They are told apart by Python's 64-bit hash: of a million keys, two collide with probability 3e-8.
    """

    def __init__(self) -> None:
        self._last = b""
        self._hashes = array("q")
        self._seen: set[int] | None = None

    def add(self, key: bytes) -> bool:
        """Take in the next key; False if it was there before."""
        if self._seen is None:
            if key > self._last:
                self._last = key
                self._hashes.append(hash(key))
                return True
            self._seen = set(self._hashes)
            self._hashes = array("q")
        mark = hash(key)
        if mark in self._seen:
            return False
        self._seen.add(mark)
        return True
