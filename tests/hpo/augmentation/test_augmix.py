"""AugMix against the paper's algorithm 1, and its operations."""

import numpy as np
import pytest

from hpo.augmentation import augmix
from hpo.augmentation.augmix import OPERATIONS, AugMix
from hpo.data.synthetic import cells_arrays


@pytest.fixture(scope="module")
def cells():
    return cells_arrays(40, 48, seed=5)[0]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_magnitude_zero_changes_nothing(operation, cells):
    assert np.array_equal(operation(cells[0], 0.0), cells[0])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("magnitude", [-1.0, 1.0])
def test_the_largest_magnitude_changes_the_image_and_leaves_its_kind(operation, magnitude, cells):
    before = cells[0].copy()
    result = operation(cells[0], magnitude)
    assert result.shape == before.shape
    assert result.dtype == np.uint8
    assert not np.array_equal(result, before)
    assert np.array_equal(cells[0], before), "the input was changed"


def test_autocontrast_stretches_each_channel_and_leaves_an_even_one():
    image = np.random.default_rng(0).integers(50, 120, (16, 16, 3), dtype=np.uint8)
    image[..., 1] = 70
    result = augmix._autocontrast(image, 1)
    assert result.min(axis=(0, 1)).tolist() == [0, 70, 0]
    assert result.max(axis=(0, 1)).tolist() == [255, 70, 255]


def test_posterizing_leaves_three_bits():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert len(np.unique(augmix._posterize(ramp, 1.0))) == 8


def test_solarizing_never_inverts_the_darker_half():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    result = augmix._solarize(ramp, -1.0)
    assert np.array_equal(result[:129], ramp[:129])
    assert np.array_equal(result[129:], 255 - ramp[129:])


def test_a_blend_is_the_weighted_sum():
    rng = np.random.default_rng(0)
    image, *chains = rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    weights = 0.7 * rng.dirichlet(np.ones(3))
    exact = 0.3 * image + sum(weight * chain for weight, chain in zip(weights, chains, strict=True))
    assert np.abs(augmix._blended(image, chains, weights) - exact).max() <= 0.501


def test_chains_are_of_one_to_three_operations_and_three_to_an_image(cells, monkeypatch):
    lengths = []

    def counting(image, chosen, magnitudes):
        lengths.append(len(chosen))
        return image

    monkeypatch.setattr(augmix, "_chain", counting)
    result = AugMix(1.0)(cells, np.random.default_rng(0))
    assert len(lengths) == 3 * len(cells)
    assert set(lengths) == {1, 2, 3}
    assert np.array_equal(result, cells), "weights do not add up to one"


def test_operations_without_a_magnitude_apply_to_their_share(cells, monkeypatch):
    seen = []
    monkeypatch.setattr(
        augmix,
        "OPERATIONS",
        tuple(lambda image, magnitude, i=i: seen.append((i, magnitude)) or image for i in range(9)),
    )
    AugMix(0.4)(np.repeat(cells, 10, axis=0), np.random.default_rng(0))
    shares = [magnitude for number, magnitude in seen if number in (0, 1)]
    graded = [magnitude for number, magnitude in seen if number > 1]
    assert set(shares) == {0, 1}
    assert np.mean(shares) == pytest.approx(0.4, abs=0.06)
    assert np.abs(graded).max() == pytest.approx(0.4, abs=0.01)
