"""The two likeliest orientations of two pictures, and where the windows lie that agree."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hpo.data.orientation import likely_orientations, seen_coefficients, turned_pictures
from hpo.data.picture_hash import CENTRE, VIEWS, low_frequencies, luma_thousandths
from hpo.data.symmetries import SYMMETRIES, turned

CENTRED = VIEWS.index(CENTRE)


def smooth(seed: int, side: int) -> np.ndarray:
    """A picture (side, side, 3) uint8 without a symmetry."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def orientations(one: np.ndarray, two: np.ndarray, view: int = CENTRED):
    thumbs = one[None], two[None]
    luma = [luma_thousandths(some) for some in thumbs]
    return likely_orientations(
        seen_coefficients(luma[0], thumbs[0], np.array([view])), low_frequencies(luma[1])
    )  # fmt: skip


@pytest.mark.parametrize("symmetry", range(SYMMETRIES))
@pytest.mark.parametrize("seed", range(3))
def test_a_turned_and_shifted_picture_is_known_with_the_direction_of_the_shift(seed: int, symmetry: int) -> None:
    whole = smooth(seed, 36)
    one = whole[2:34, 2:34]
    shifted = np.roll(one, (-1, 0), axis=(0, 1))  # its rows lie one row lower in the first
    two = np.moveaxis(turned(np.moveaxis(shifted, -1, 0), symmetry), 0, -1)
    agreement, found, place = orientations(one, np.ascontiguousarray(two))
    assert found[0, 0] == symmetry
    assert agreement[0, 0] > max(0.9, agreement[0, 1])
    assert place.shape == (1, 2, 4)


def test_a_picture_that_looks_the_same_when_turned_counts_as_not_turned() -> None:
    y, x = np.mgrid[:32, :32] - 15.5
    disc = np.repeat((200 - 3 * np.hypot(x, y)).astype(np.uint8)[..., None], 3, axis=2)
    agreement, found, place = orientations(disc, disc)
    assert found[0, 0] == 0
    assert agreement[0, 1] == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(place[0, 0], [1, 0, 1, 0])


def test_a_view_of_another_brightness_is_one_more() -> None:
    one = smooth(5, 32)
    gained = next(number for number, view in enumerate(VIEWS) if view.gain > 1.2)
    bright = np.minimum(one * VIEWS[gained].gain, 255).astype(np.uint8)
    plain, own = (orientations(one, bright, view)[0][0, 0] for view in (CENTRED, gained))
    assert own > plain
    assert own > 0.999


def test_each_picture_is_turned_by_its_own_symmetry() -> None:
    pictures = np.random.default_rng(0).random((SYMMETRIES, 3, 5, 5)).astype(np.float32)
    found = turned_pictures(pictures.copy(), np.arange(SYMMETRIES))
    for number in range(SYMMETRIES):
        np.testing.assert_array_equal(found[number], turned(pictures[number], number))
