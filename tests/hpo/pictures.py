"""Pictures that are drawn for tests: different seeds give pictures that no check takes for copies of each other."""

from __future__ import annotations

import numpy as np
from PIL import Image


def blobs(*seed: int, size: int = 64) -> Image.Image:
    """Return blobs on smooth colours."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(60, 200, (5, 5, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
    pixels = np.asarray(image)
    rows, columns = np.mgrid[0:size, 0:size] / size
    for _ in range(9):
        down, right, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.04, 0.2)
        inside = ((rows - down) ** 2 + (columns - right) ** 2 < radius**2)[..., None]
        pixels = np.where(inside, rng.integers(0, 256, 3), pixels).astype(np.uint8)
    return Image.fromarray(pixels)
