"""Corruptions: seeded, worse with severity, and the subject stays."""

from itertools import pairwise

import numpy as np
import pytest

from hpo.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from hpo.data.synthetic import cells_arrays
from hpo.errors import UsageError


@pytest.fixture(scope="module")
def cells():
    """Return 40 cells in a read-only array."""
    images, _ = cells_arrays(40, 64, seed=2)
    images.flags.writeable = False
    return images


def altered(images, name, severity, seed=0):
    return np.stack(
        [corrupt(image, name, severity, np.random.default_rng([seed, i])) for i, image in enumerate(images)]
    )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_is_farther_from_the_original(name, cells):
    distances = [np.abs(altered(cells, name, severity) - cells.astype(np.float64)).mean() for severity in SEVERITIES]
    assert distances[0] > 1
    assert all(weaker < stronger for weaker, stronger in pairwise(distances)), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_result_depends_on_the_generator_only_and_shape_and_type_stay(name, cells):
    once, twice = (corrupt(cells[0], name, 3, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(once, twice)
    assert once.shape == cells[0].shape
    assert once.dtype == np.uint8
    assert once.flags.c_contiguous


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"blur", "contrast", "jpeg"}))
def test_other_draws_give_another_image(name, cells):
    different = {corrupt(cells[0], name, 5, np.random.default_rng(seed)).tobytes() for seed in range(12)}
    assert len(different) > 1


@pytest.mark.parametrize("name", ["grid-mask", "cut-mask"])
@pytest.mark.parametrize("size", [32, 96, 224])
def test_masks_leave_a_good_part_of_a_centred_subject(name, size):
    row, column = np.indices((size, size)) - (size - 1) / 2
    subject = np.hypot(row, column) < 0.15 * size
    white = np.full((size, size, 3), 255, np.uint8)
    results = [corrupt(white, name, 5, np.random.default_rng(seed))[..., 0] > 0 for seed in range(200)]
    assert min((seen & subject).sum() for seen in results) / subject.sum() > 0.3


def test_channel_shuffle_at_five_is_a_mere_order(cells):
    result = altered(cells, "channel-shuffle", 5)
    assert np.array_equal(np.sort(result, axis=3), np.sort(cells, axis=3))


@pytest.mark.parametrize("size", [16, 33, 224])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_size_is_altered(name, size):
    image = cells_arrays(8, size)[0][0]
    assert all(corrupt(image, name, severity, np.random.default_rng(0)).shape == image.shape for severity in SEVERITIES)


def test_an_unknown_name_or_severity_is_refused_with_the_rule():
    image, rng = np.zeros((16, 16, 3), np.uint8), np.random.default_rng(0)
    with pytest.raises(UsageError, match="corruption is 'fog', but must be one of noise, blur"):
        corrupt(image, "fog", 1, rng)
    with pytest.raises(UsageError, match="severity is 6, but must be a whole number from 1 to 5"):
        corrupt(image, "noise", 6, rng)
