"""Seeds and random generators.

Every random number of a run derives from (seed, purpose, epoch, batch). No function here leaves global state changed
after its `with` block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *path: int | str) -> int:
    """Return a 32-bit seed for one purpose, for example `derive_seed(seed, "augment", epoch, batch)`.

    It depends on all arguments, so no two trials, epochs or batches share a stream of random numbers.
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the block, and restore their states after it.

    Inside, cuDNN uses deterministic algorithms.
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
    """Return the states (n,) uint8 of torch's global generators: the CPU's, and the GPU's if `device` is one."""
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `generator_states()` returned; a generator without a state in `states` stays as it is."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator inside the block, for libraries that use no other one (timm's Mixup)."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
