"""Random streams: each a function of what it is for, and of nothing else."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream(*parts: object) -> torch.Generator:
    """A CPU generator that is a function of `parts` alone, such as ("order", seed, epoch)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def seed_of(*parts: object) -> int:
    """A 63-bit seed that is a function of `parts` alone."""
    return stream(*parts).initial_seed()


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Torch's default generator on the CPU and Python's `random`, seeded by `parts`; set back when the block ends."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            value = seed_of(*parts)
            random.seed(value)
            torch.default_generator.manual_seed(value)
            yield
    finally:
        random.setstate(state)
