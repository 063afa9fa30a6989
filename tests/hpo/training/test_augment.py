"""Augmentation: the seed decides alone, strength 0 is the identity, more strength changes more, the subject stays."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from hpo.data.synthetic import cells_arrays
from hpo.errors import UsageError
from hpo.training.augment import NoAugmentation, build_augmenter
from hpo.training.augment_steps import Dihedral, PerImage, Warp, _variable
from hpo.training.families import FAMILIES, _masks
from search_spaces import AugmentationFamily

CHANGING = sorted(set(FAMILIES) - {"none"})
STRENGTHS = (0, 0.25, 0.5, 0.75, 1)
SIZE = 48


@pytest.fixture(scope="module")
def cells():
    """96 cells that nobody can write to."""
    images, _ = cells_arrays(96, SIZE, seed=11)
    images.flags.writeable = False
    return images


def symmetries(images):
    """The eight symmetries of a batch."""
    turns = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return [*turns, *(turned[:, :, ::-1] for turned in turns)]


def difference(images, others):
    """(b,) mean absolute difference of pixels, in grey levels."""
    return np.abs(images.astype(np.int16) - others).mean(axis=(1, 2, 3))


def distance(family, before, after):
    """Mean change of a batch; a mere symmetry counts nothing, unless symmetries are all there is."""
    references = [before] if family == "flips" else symmetries(before)
    return np.min([difference(reference, after) for reference in references], axis=0).mean()


def test_every_family_of_the_configuration_is_built():
    assert set(FAMILIES) == set(get_args(AugmentationFamily))


@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_gives_the_very_same_array(family, cells):
    augmenter = build_augmenter(family, 0, SIZE)
    assert augmenter(cells, 1) is cells
    assert augmenter.clone()(cells, 1) is cells


def test_family_none_is_the_identity_at_any_strength(cells):
    assert build_augmenter("none", 1, SIZE) == NoAugmentation()
    assert build_augmenter("none", 1, SIZE)(cells, 1) is cells


@pytest.mark.parametrize("family", CHANGING)
def test_more_strength_changes_more(family, cells):
    changes = [distance(family, cells, build_augmenter(family, s, SIZE)(cells, 3)) for s in STRENGTHS]
    assert changes[0] == 0
    assert all(weaker < stronger for weaker, stronger in pairwise(changes)), changes


@pytest.mark.parametrize("family", CHANGING)
def test_the_least_strength_changes_next_to_nothing(family, cells):
    assert distance(family, cells, build_augmenter(family, 0.002, SIZE)(cells, 3)) < 1.5


@pytest.mark.parametrize("family", CHANGING)
def test_the_result_is_a_new_batch_of_the_same_kind(family, cells):
    result = build_augmenter(family, 0.5, SIZE)(cells, 0)
    assert result.shape == cells.shape
    assert result.dtype == np.uint8
    assert not np.shares_memory(result, cells)


@pytest.mark.parametrize("family", CHANGING)
def test_the_seed_decides_alone(family, cells):
    augmenter = build_augmenter(family, 0.7, SIZE)
    first = augmenter(cells, 5)
    assert not np.array_equal(first, augmenter(cells, 6))
    np.random.seed(0)
    assert np.array_equal(first, augmenter(cells, 5)), "a call before it changed the result"
    assert np.array_equal(first, build_augmenter(family, 0.7, SIZE)(cells, 5)), "an equal augmenter gave another result"


@pytest.mark.parametrize("family", CHANGING)
def test_images_of_a_batch_are_changed_differently(family, cells):
    result = build_augmenter(family, 1, SIZE)(np.repeat(cells[:1], 32, axis=0), 0)
    different = len({image.tobytes() for image in result})
    assert different == 8 if family == "flips" else different >= 24


@pytest.mark.parametrize("family", CHANGING)
def test_clones_in_threads_give_what_one_thread_gives(family, cells):
    augmenter = build_augmenter(family, 0.8, SIZE)
    alone = [augmenter(cells[:16], seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: augmenter.clone()(cells[:16], seed), range(8)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("size", [16, 50, 224])
@pytest.mark.parametrize("family", CHANGING)
def test_no_size_or_strength_draws_a_warning(family, size):
    images, _ = cells_arrays(8, size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [build_augmenter(family, s, size)(images, 0) for s in (1e-6, 0.01, 0.1, 0.33, 0.9, 1)]
    assert all(result.shape == images.shape for result in results)


@pytest.mark.parametrize("family", CHANGING)
def test_an_empty_batch_stays_empty(family):
    empty = np.empty((0, SIZE, SIZE, 3), np.uint8)
    assert build_augmenter(family, 0.5, SIZE)(empty, 0).shape == empty.shape


def test_an_unknown_family_is_refused_with_the_list():
    with pytest.raises(UsageError, match="augmentation is 'twirl', but must be one of none, flips, geometric"):
        build_augmenter("twirl", 0.5, SIZE)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_outside_its_range_is_refused(strength):
    with pytest.raises(UsageError, match="but must be between 0 and 1"):
        build_augmenter("flips", strength, SIZE)


def test_dihedral_reaches_the_eight_symmetries_and_nothing_else(cells):
    result = Dihedral(1.0)(cells, np.random.default_rng(0))
    equal = np.array([[np.array_equal(a, b) for a, b in zip(result, s, strict=True)] for s in symmetries(cells)])
    assert equal.any(axis=0).all()
    assert equal.any(axis=1).all()


def test_dihedral_leaves_the_share_it_should(cells):
    images = np.repeat(cells, 10, axis=0)
    changed = difference(images, Dihedral(0.4)(images, np.random.default_rng(0))) > 0
    assert changed.mean() == pytest.approx(0.4 * 7 / 8, abs=0.05)


def test_warp_without_magnitudes_moves_pixels_exactly(cells):
    result = Warp(share=1, degrees=0, zoom=1, shift=0, shear=0)(cells, np.random.default_rng(0))
    equal = np.array([[np.array_equal(a, b) for a, b in zip(result, s, strict=True)] for s in symmetries(cells)])
    assert equal.any(axis=0).all()
    assert equal.any(axis=1).all()


@pytest.mark.parametrize(
    ("change", "angle", "factor"), [({"degrees": 30}, 30, 1), ({"zoom": 1.3}, 0, 1.3)], ids=["rotation", "zoom"]
)
def test_warp_stays_inside_what_it_was_told(change, angle, factor):
    warp = Warp(**{"share": 0, "degrees": 0, "zoom": 1, "shift": 0, "shear": 0, **change})
    linear = warp._matrices(np.random.default_rng(0), 500, SIZE)[:, :, :2]
    turned = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    scale = np.sqrt(np.abs(np.linalg.det(linear)))
    assert np.abs(turned).max() == pytest.approx(angle, abs=0.5)
    assert scale.max() == pytest.approx(factor, rel=0.01)
    assert scale.min() == pytest.approx(1 / factor, rel=0.01)


def test_the_strongest_warp_keeps_the_subject_in_the_picture():
    row, column = np.indices((96, 96)) - 47.5
    disc = np.hypot(row, column) < 0.3 * 96
    images = np.repeat((disc * np.uint8(255))[None, ..., None].repeat(3, axis=3), 300, axis=0)
    kept = (build_augmenter("geometric", 1, 96)(images, 0)[..., 0] > 127).sum(axis=(1, 2)) / disc.sum()
    assert kept.min() > 0.6, "less than the smallest zoom explains: the disc has left the picture"
    assert kept.max() < 1.7


def test_the_strongest_masks_hide_a_quarter_at_most():
    masks = _masks(1, 96)
    masks.p = 1
    grey = np.full((200, 96, 96, 3), 128, np.uint8)
    hidden = (PerImage([masks])(grey, np.random.default_rng(0)) != 128).any(axis=3).mean(axis=(1, 2))
    assert hidden.min() > 0
    assert hidden.max() < 0.3


OFFLINE = """
import os, urllib.request
def refuse(*arguments, **options):
    raise SystemExit("albumentations asked the network")
urllib.request.OpenerDirector.open = refuse
from hpo.training.augment import build_augmenter
build_augmenter("colour", 0.5, 32)
print(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))
"""


def test_nothing_asks_the_network_and_the_environment_stays_as_it_was():
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"


def test_a_variable_that_was_set_comes_back(monkeypatch):
    monkeypatch.setenv("HPO_TEST", "before")
    with _variable("HPO_TEST", "1"):
        assert os.environ["HPO_TEST"] == "1"
    assert os.environ["HPO_TEST"] == "before"
