"""Randomness that depends on nothing but its parts: the same in every process, platform and Python.

`random.Random(int).random()` is the one sequence that CPython promises to keep for ever, so every order
is built from it. numpy's generators (for users' generators and transforms) are seeded with `seed_of`.
"""

from __future__ import annotations

import hashlib
import os
import random

Part = int | str


def seed_of(*parts: Part) -> int:
    """Give a 128-bit seed for this tuple of integers and strings; equal parts give equal seeds."""
    text = "\0".join(f"{type(part).__name__[0]}{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def rng(*parts: Part) -> random.Random:
    """Give the random sequence that belongs to these parts."""
    return random.Random(seed_of(*parts))


def permutation(count: int, *parts: Part) -> list[int]:
    """Give the order of 0 … count-1 that belongs to these parts. O(n log n), about 0.3 µs an item."""
    draw = rng(*parts).random
    keys = [draw() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def fresh_seed() -> int:
    """Give a seed from the system's entropy, small enough (63 bits) for JSON and every library."""
    return int.from_bytes(os.urandom(8), "big") >> 1
