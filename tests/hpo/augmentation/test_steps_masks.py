"""Steps that hide a part of the image: how much, where, and never the whole of a subject in the centre."""

import numpy as np
import pytest

from hpo.augmentation.families import EXTRAS
from hpo.augmentation.steps import FILL, CircleMask, CutOut, GridMask, covered
from search_spaces import TrialConfig

MASKS = ("gridmask", "cutout", "masking")


def hidden(step, size=96, count=400):
    """Return (count, S, S) bool: the pixels of blue images that a step hides."""
    images = np.full((count, size, size, 3), (0, 0, 255), np.uint8)
    result = step(images, np.random.default_rng(0))
    covering = (result == FILL).all(axis=3)
    assert (result[~covering] == (0, 0, 255)).all(), "what is not hidden was changed"
    return covering


def disc(size, radius):
    """Return (S, S) bool: a centred disc; `radius` is a fraction of the side."""
    row, column = np.indices((size, size)) - (size - 1) / 2
    return np.hypot(row, column) < radius * size


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("radius", [0.12, 0.3])
@pytest.mark.parametrize("size", [32, 96, 224])
def test_a_third_of_a_centred_subject_at_least_stays_at_the_largest_strength(name, radius, size):
    step = EXTRAS[name](TrialConfig(image_size=size, **{name: 1}))
    subject = disc(size, radius)
    seen = (~hidden(step, size) & subject).sum(axis=(1, 2)) / subject.sum()
    assert seen.min() > 0.33


def test_a_grid_hides_the_square_of_its_side_and_of_its_share_only():
    area = hidden(GridMask(share=0.6, hidden=0.5)).mean(axis=(1, 2))
    assert (area > 0).mean() == pytest.approx(0.6, abs=0.07)
    assert area[area > 0].mean() == pytest.approx(0.25, abs=0.02)


def test_a_square_is_cut_out_of_every_image_and_cut_off_at_the_border():
    covering = hidden(CutOut(0.5))
    area = covering.mean(axis=(1, 2))
    assert area.min() > 0
    assert area.max() <= 0.25
    assert area.std() > 0.02
    rows, columns = covering.any(axis=2).sum(axis=1), covering.any(axis=1).sum(axis=1)
    assert np.array_equal(rows * columns, covering.sum(axis=(1, 2))), "not a rectangle"


def test_squares_lie_on_every_side_of_the_centre():
    covering = hidden(CutOut(0.3))
    share = covering.mean(axis=0)
    quarters = [share[48:, 48:].mean(), share[48:, :48].mean(), share[:48, 48:].mean(), share[:48, :48].mean()]
    assert quarters == pytest.approx([np.mean(quarters)] * 4, rel=0.2)
    assert not covering[:, 47:49, 47:49].all(axis=(1, 2)).any()


def test_circles_are_centred_and_cover_the_configured_share():
    covering = hidden(CircleMask(share=0.5, radius=0.4))
    assert covering.any(axis=(1, 2)).mean() == pytest.approx(0.5, abs=0.07)
    assert np.array_equal(covering, covering[:, ::-1])
    assert np.array_equal(covering, covering.transpose(0, 2, 1))
    assert not (covering & disc(96, 0.4)).any()


def test_covering_equals_selecting():
    rng = np.random.default_rng(0)
    images, mask = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), rng.random((3, 8, 8)) < 0.5
    expected = np.where(mask[..., None], np.uint8(FILL), images)
    assert np.array_equal(covered(images, np.repeat(mask, 3, axis=2)), expected)
