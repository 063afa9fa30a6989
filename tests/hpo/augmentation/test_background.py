"""The object told from its background: on drawn cells, under the symmetries of a square, and where there is none."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.augmentation.background import StoredMasks, object_mask, prepared, without_background
from hpo.augmentation.steps import SYMMETRIES
from hpo.bundle.model import VIEWS
from hpo.data.dataset import Images, Part
from hpo.data.synthetic import draw_cell

assert len(SYMMETRIES["dihedral"]) == len(VIEWS["dihedral"]) == 8


def scene(size: int, seed: int) -> tuple[Images, Any]:
    """Return a blue disc near the centre among pale ones at the border, and where the blue one is."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), (250, 230, 210), np.uint8)
    for x, y in ((0.05, 0.1), (0.9, 0.15), (0.1, 0.95), (0.95, 0.9)):
        cv2.circle(image, (round(x * size), round(y * size)), round(0.12 * size), (215, 175, 175), -1)
    middle = size * (0.5 + rng.uniform(-0.06, 0.06, 2))
    true = np.zeros((size, size), np.uint8)
    cv2.circle(true, (int(middle[0]), int(middle[1])), round(size * rng.uniform(0.16, 0.3)), 1, -1)
    image[true > 0] = (90, 70, 150)
    noisy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255)
    return noisy.astype(np.uint8), true > 0


@pytest.mark.parametrize("size", [32, 49, 96, 97, 224])
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_covers_the_object_and_little_else(size: int, seed: int) -> None:
    image, true = scene(size, seed)
    mask = object_mask(image)
    assert mask is not None
    assert (mask.shape, mask.dtype, mask.max()) == ((size, size), np.uint8, 1)
    assert mask[true].mean() > 0.97
    assert (mask.astype(bool) & true).sum() / (mask.astype(bool) | true).sum() > 0.65


@settings(max_examples=25, deadline=None)
@given(size=st.integers(16, 130), seed=st.integers(0, 1000), kind=st.sampled_from(["scene", "cell", "noise"]))
def test_a_turned_or_mirrored_image_has_the_turned_or_mirrored_mask(size: int, seed: int, kind: str) -> None:
    """Else test-time augmentation and `symmetry` would show a network other pixels than training did."""
    if kind == "scene":
        image = scene(size, seed)[0]
    elif kind == "cell":
        image = draw_cell(seed % 8, seed, size)
    else:
        image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    whole = without_background(image[None])
    for view in VIEWS["dihedral"]:
        assert np.array_equal(without_background(view(image[None])), view(whole))


@pytest.mark.parametrize(
    "image",
    [
        np.full((96, 96, 3), 128, np.uint8),
        np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8),
        np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[:, None, None], 96, 1).repeat(3, 2),
        np.random.default_rng(1).integers(0, 256, (12, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1),
    ],
    ids=["blank", "noise", "gradient", "squares"],
)
def test_an_image_without_an_object_stays_as_it_is(image: Images) -> None:
    assert np.array_equal(without_background(image[None])[0], image)


def test_where_only_a_rim_is_found_the_image_stays_as_it_is() -> None:
    """A second cell at the border has the colours of the first one's nucleus; the rest would be a crescent."""
    image = np.full((96, 96, 3), (250, 230, 210), np.uint8)
    for place in ((48, 48), (12, 84), (84, 10)):
        cv2.circle(image, place, 20, (150, 130, 200) if place == (48, 48) else (60, 40, 120), -1)
    cv2.circle(image, (48, 48), 16, (60, 40, 120), -1)
    mask = object_mask(image)
    assert mask is None or mask[40:57, 40:57].mean() > 0.5


def test_the_background_takes_its_mean_colour_and_the_object_keeps_its_pixels() -> None:
    image, _ = scene(96, 0)
    mask = object_mask(image)
    assert mask is not None
    found = without_background(image[None])[0]
    inside = mask > 0
    assert np.array_equal(found[inside], image[inside])
    assert len(np.unique(found[~inside], axis=0)) == 1
    assert np.allclose(found[~inside][0], image[~inside].mean(axis=0), atol=0.5)


def test_stored_masks_give_the_same_images_the_second_time_and_bounded_ones_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.stack([scene(64, seed)[0] for seed in range(3)] + [np.zeros((64, 64, 3), np.uint8)])
    part = Part(images, np.array([3, 1, 0]), np.zeros(3, np.int64), ["c", "b", "a"])
    seen = prepared(part, "mask")
    expected = without_background(images[[3, 1, 0]])
    for _ in range(2):
        assert np.array_equal(seen.batch(np.arange(3)), expected)
    assert np.array_equal(seen.subset(np.array([2])).joined(seen).batch(np.array([0, 2])), expected[[2, 1]])
    assert np.array_equal(part.batch(np.arange(3)), images[[3, 1, 0]]), "the packed images stay as they are"
    assert prepared(part, "keep") is part
    monkeypatch.setattr("hpo.augmentation.background.MOST_STORED", 100)
    assert np.array_equal(StoredMasks(images)(images[[1]], np.array([1])), expected[[1]])
