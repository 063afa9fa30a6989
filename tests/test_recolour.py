"""The recoloured copy: other colours, the same shapes and classes, and the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.recolour import draw_shift, read_images, recolour, stains_of
from hpo.data.synthetic import cells_arrays, write_cells


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return cells_arrays(12, 48, seed=3)[0]


def test_nothing_changes_at_strength_0(images: np.ndarray) -> None:
    shift = draw_shift(stains_of(images), seed=1, strength=0)
    assert np.abs(shift.apply(images[0]).astype(int) - images[0]).max() <= 1


def test_the_stains_are_two_different_positive_directions(images: np.ndarray) -> None:
    stains = stains_of(images)
    assert np.linalg.norm(stains, axis=1) == pytest.approx([1, 1])
    assert stains.sum(axis=1).min() > 0
    assert 0.3 < stains[0] @ stains[1] < 0.9999


def test_known_stains_are_found_again() -> None:
    rng = np.random.default_rng(0)
    true = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    amounts = np.stack([rng.uniform(0.3, 1.2, 9216), rng.uniform(0.3, 1.2, 9216)])
    amounts[0, ::3], amounts[1, 1::3] = 0.05, 0.05
    pixels = np.clip(256 * np.exp(-(amounts.T @ true)) - 1, 0, 255).astype(np.uint8).reshape(1, 96, 96, 3)
    found = stains_of(pixels)
    assert max(min(abs(1 - one @ other) for other in found) for one in true) < 0.05


def test_colours_change_and_shapes_stay(images: np.ndarray) -> None:
    shift = draw_shift(stains_of(images), seed=1, strength=1)
    other = shift.apply(images[0])
    assert np.abs(other.astype(int) - images[0]).mean() > 5
    before, after = (image.astype(float).mean(axis=2).ravel() for image in (images[0], other))
    assert np.corrcoef(before, after)[0, 1] > 0.9


def test_a_copy_has_the_classes_and_depends_on_the_seed(tmp_path: Path) -> None:
    write_cells(tmp_path / "cells", 16, size=32, seed=0)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert recolour(tmp_path / "cells", tmp_path / name, size=32, seed=seed, strength=1) == 16
    folders = sorted(entry.name for entry in (tmp_path / "cells").iterdir())
    assert sorted(entry.name for entry in (tmp_path / "a").iterdir()) == folders
    copies = [b"".join(image.tobytes() for _, image in read_images(tmp_path / name, 32)) for name in "abc"]
    assert copies[0] == copies[1] != copies[2]
    (first, *_) = sorted((tmp_path / "a").rglob("*.png"))
    assert Image.open(first).size == (32, 32)
