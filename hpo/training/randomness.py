"""Seeds: every random number of a run derives from (seed, purpose, epoch, batch); no global state is left changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *path: int | str) -> int:
    """A 32-bit seed for one purpose, e.g. `derive(seed, "augment", epoch, batch)`."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators start at `seed` inside and go on outside as if nothing had happened.

    Inside, cuDNN takes the algorithms that give the same result each time.
    """
    before = torch.backends.cudnn.deterministic
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.backends.cudnn.deterministic = True
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic = before


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Numpy's global generator starts at `seed` inside; for libraries that know no other (timm's Mixup)."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
