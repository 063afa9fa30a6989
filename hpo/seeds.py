"""Seeds: every random number of a run derives from (seed, purpose, epoch, batch); no global state is left changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


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


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States (n,) uint8 of torch's global generators, that of the CPU and, beside it, that of a GPU."""
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on from `generator_states()`; a generator without a state there stays as it is."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Numpy's global generator starts at `seed` inside; for libraries that know no other (timm's Mixup)."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def derive_seed(study_seed: int, purpose: str, number: int) -> int:
    """A 32-bit seed that depends on all three arguments, so that no two trials or workers share a stream."""
    text = f"{study_seed}/{purpose}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")
