"""Fixtures: small images, folders of them, and the cache."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteClasses = Callable[..., Path]


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """Return noise(seed, shape) -> uint8 values, another picture for another seed."""

    def make(seed: int, shape: tuple[int, ...] = (16, 16, 3)) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def png(noise: Callable[..., np.ndarray]) -> Callable[..., bytes]:
    """Return png(seed) -> the bytes of a PNG of noise."""

    def make(seed: int, shape: tuple[int, ...] = (16, 16, 3)) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(noise(seed, shape)).save(stream, "PNG")
        return stream.getvalue()

    return make


@pytest.fixture
def write_classes(tmp_path: Path, png: Callable[..., bytes]) -> WriteClasses:
    """Return write_classes({"a": 3, "b": 4}, under="data") -> folder with that many different PNGs per class."""

    def write(counts: Mapping[str, int], under: str = "data", first_seed: int = 0) -> Path:
        seed = first_seed
        for name, count in counts.items():
            folder = tmp_path / under / name
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number:03}.png").write_bytes(png(seed))
                seed += 1
        return tmp_path / under

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return the folder for packs."""
    return tmp_path / "cache"
