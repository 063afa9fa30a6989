"""The perceptual hash: equal for the eight symmetries of any image, near for a shifted one, far for another one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo.data.picture_hash import VIEWS, PictureHash, low_frequencies, luma_thousandths, symmetric_features
from hpo.data.symmetries import (
    SYMMETRIES,
    composed,
    inverse,
    symmetry_in_words,
    turned,
    turned_coefficients,
    turned_offset,
)

THUMBS = arrays(np.uint8, (2, 32, 32, 3))
ONE = st.integers(0, SYMMETRIES - 1)


def turn(thumbs, symmetry):
    """RGB images (n, S, S, 3), turned."""
    return np.ascontiguousarray(np.moveaxis(turned(np.moveaxis(thumbs, -1, 1), symmetry), 1, -1))


@pytest.fixture(scope="module")
def pictures():
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    return PictureHash.learn(noise)


@settings(max_examples=60, deadline=None)
@given(thumbs=THUMBS, symmetry=ONE)
def test_features_are_equal_for_the_eight_symmetries_of_any_image(thumbs, symmetry):
    before, after = luma_thousandths(thumbs), luma_thousandths(turn(thumbs, symmetry))
    coefficients = low_frequencies(after)
    assert np.array_equal(coefficients, turned_coefficients(low_frequencies(before), symmetry))
    assert np.array_equal(symmetric_features(coefficients), symmetric_features(low_frequencies(before)))


@settings(max_examples=60, deadline=None)
@given(thumbs=THUMBS, symmetry=ONE)
def test_the_hash_is_equal_for_the_eight_symmetries_of_any_image(pictures, thumbs, symmetry):
    keys, of_turned = pictures.describe(thumbs).keys, pictures.describe(turn(thumbs, symmetry)).keys
    assert np.array_equal(keys[0], of_turned[0])
    # The views of a turned image are the same ones in another order.
    assert np.array_equal(np.sort(keys, axis=0), np.sort(of_turned, axis=0))


@given(first=ONE, then=ONE)
def test_symmetries_are_composed_and_undone(first, then):
    image = np.arange(9).reshape(3, 3)
    assert np.array_equal(turned(turned(image, first), then), turned(image, composed(first, then)))
    assert composed(first, inverse(first)) == composed(inverse(first), first) == 0


@given(symmetry=ONE)
def test_the_place_of_a_point_in_the_turned_image(symmetry):
    image = np.zeros((5, 5))
    image[3, 0] = 1
    down, right = turned_offset(1, -2, symmetry)
    assert np.argwhere(turned(image, symmetry) == 1).tolist() == [[2 + down, 2 + right]]


def test_symmetries_in_words():
    assert [symmetry_in_words(symmetry) for symmetry in range(SYMMETRIES)] == [
        "",
        "turned by 90°",
        "turned by 180°",
        "turned by 270°",
        "mirrored",
        "mirrored and turned by 90°",
        "mirrored and turned by 180°",
        "mirrored and turned by 270°",
    ]


def test_the_hash_holds_the_side_of_each_threshold_first_bit_highest(pictures):
    thumbs = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    for number, view in enumerate(VIEWS):
        features = symmetric_features(low_frequencies(luma_thousandths(thumbs, view.gain), view))
        projected = np.rint((features - pictures.mean) @ pictures.directions * 2**20)
        told = [sum(1 << (63 - bit) for bit in np.flatnonzero(row).tolist()) for row in projected > pictures.thresholds]
        assert pictures.describe(thumbs).keys[number].tolist() == told


def test_a_flat_image_has_no_features():
    thumbs = np.full((1, 32, 32, 3), 77, np.uint8)
    assert np.abs(symmetric_features(low_frequencies(luma_thousandths(thumbs)))).max() < 0.01


def test_brightness_and_contrast_change_no_feature_of_a_textured_image():
    noise = np.random.default_rng(1).integers(0, 100, (1, 32, 32, 3)).repeat(8, axis=1)[:, :32].astype(np.uint8)
    before, after = (symmetric_features(low_frequencies(luma_thousandths(some))) for some in (noise, noise * 2 + 30))
    assert np.abs(before - after).max() < 0.05


def test_a_gain_cuts_off_at_255():
    thumbs = np.full((1, 32, 32, 3), 200, np.uint8)
    assert luma_thousandths(thumbs, 1.3).max() == 255_000
    assert luma_thousandths(thumbs, 1.2).max() == 240_000
