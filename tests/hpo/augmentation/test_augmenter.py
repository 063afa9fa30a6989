"""Augmentation: dependence on the seed, effect of the strength, and subjects that stay in the picture."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, permutations
from typing import get_args

import numpy as np
import pytest

from hpo.augmentation.augmenter import NoAugmentation, PerThread, build_augmenter
from hpo.augmentation.families import EXTRAS, FAMILIES
from hpo.augmentation.per_image import PerImage
from hpo.augmentation.steps import ChannelShuffle, Dihedral, Mixture, Warp, draw_symmetries
from hpo.data.synthetic import cells_arrays
from search_spaces import AugmentationFamily, TrialConfig

CHANGING = [*sorted(set(FAMILIES) - {"none"}), *EXTRAS]
STRENGTHS = (0, 0.25, 0.5, 0.75, 1)
SIZE = 48


@pytest.fixture(scope="module")
def cells():
    """Return 96 read-only images of cells."""
    images, _ = cells_arrays(96, SIZE, seed=11)
    images.flags.writeable = False
    return images


def configured(name, strength, size=SIZE, **changes):
    """Return a configuration with only a family, or an extra, at a strength."""
    chosen = {"augmentation": name, "augmentation_strength": strength} if name in FAMILIES else {name: strength}
    return TrialConfig.from_dict(
        {"augmentation": "none", "symmetry": "dihedral", "image_size": size, **chosen, **changes}
    )


def augmenter_of(name, strength, size=SIZE, **changes):
    return build_augmenter(configured(name, strength, size, **changes))


def symmetries(images):
    """Return the eight symmetries of a batch."""
    turns = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    return [*turns, *(turned[:, :, ::-1] for turned in turns)]


def difference(images, others):
    """Return (b,) mean absolute differences of pixels, in grey levels."""
    return np.abs(images.astype(np.int16) - others).mean(axis=(1, 2, 3))


def distance(family, before, after):
    """Return the mean change of a batch; a symmetry alone counts as 0, unless the step makes only symmetries."""
    references = [before] if family == "flips" else symmetries(before)
    return np.min([difference(reference, after) for reference in references], axis=0).mean()


def test_a_mixture_gives_each_image_one_family(cells):
    """Steps that add 1 and 2 stand for two families; the images of a batch get one or the other, evenly."""
    one, two = (lambda images, rng, n=number: images + np.uint8(n) for number in (1, 2))
    dark = cells // 2
    mixed = Mixture(((one,), (two, two)))(dark, np.random.default_rng(0))
    added = {tuple(np.unique(after - before)) for before, after in zip(dark, mixed, strict=True)}
    assert added == {(1,), (4,)}
    assert Mixture(((), ()))(dark, np.random.default_rng(0)) is not dark


def test_every_family_of_the_configuration_is_built():
    assert set(FAMILIES) == set(get_args(AugmentationFamily))


@pytest.mark.parametrize("family", [*FAMILIES, *EXTRAS])
def test_strength_0_returns_the_same_array(family, cells):
    augmenter = augmenter_of(family, 0)
    assert augmenter(cells, 1) is cells
    assert augmenter.clone()(cells, 1) is cells


def test_family_none_is_the_identity_at_any_strength(cells):
    assert augmenter_of("none", 1) == NoAugmentation()
    assert augmenter_of("none", 1)(cells, 1) is cells


@pytest.mark.parametrize("family", CHANGING)
def test_more_strength_changes_more(family, cells):
    changes = [distance(family, cells, augmenter_of(family, s)(cells, 3)) for s in STRENGTHS]
    assert changes[0] == 0
    assert all(weaker < stronger for weaker, stronger in pairwise(changes)), changes


@pytest.mark.parametrize("family", CHANGING)
def test_the_smallest_strength_changes_almost_nothing(family, cells):
    assert distance(family, cells, augmenter_of(family, 0.002)(cells, 3)) < 1.5


@pytest.mark.parametrize("family", CHANGING)
def test_the_result_is_a_new_batch_of_the_same_kind(family, cells):
    result = augmenter_of(family, 0.5)(cells, 0)
    assert result.shape == cells.shape
    assert result.dtype == np.uint8
    assert not np.shares_memory(result, cells)


@pytest.mark.parametrize("family", CHANGING)
def test_augmentation_depends_on_the_seed_alone(family, cells):
    augmenter = augmenter_of(family, 0.7)
    first = augmenter(cells, 5)
    assert not np.array_equal(first, augmenter(cells, 6))
    np.random.seed(0)
    assert np.array_equal(first, augmenter(cells, 5)), "a call before it changed the result"
    assert np.array_equal(first, augmenter_of(family, 0.7)(cells, 5)), "an equal augmenter gave another result"


@pytest.mark.parametrize("family", CHANGING)
def test_images_of_a_batch_are_changed_differently(family, cells):
    result = augmenter_of(family, 1)(np.repeat(cells[:1], 32, axis=0), 0)
    different = len({image.tobytes() for image in result})
    assert different >= {"flips": 8, "channel_shuffle": 5, "gridmask": 20}.get(family, 24)


@pytest.mark.parametrize("family", CHANGING)
def test_clones_in_threads_give_the_results_of_one_thread(family, cells):
    augmenter = augmenter_of(family, 0.8)
    alone = [augmenter(cells[:16], seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: augmenter.clone()(cells[:16], seed), range(8)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("size", [16, 50, 224])
@pytest.mark.parametrize("family", CHANGING)
def test_no_size_or_strength_causes_a_warning(family, size):
    images, _ = cells_arrays(8, size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [augmenter_of(family, s, size)(images, 0) for s in (1e-6, 0.01, 0.1, 0.33, 0.9, 1)]
    assert all(result.shape == images.shape for result in results)


@pytest.mark.parametrize("family", CHANGING)
def test_an_empty_batch_stays_empty(family):
    empty = np.empty((0, SIZE, SIZE, 3), np.uint8)
    assert augmenter_of(family, 0.5)(empty, 0).shape == empty.shape


def test_extras_follow_the_family_one_after_the_other(cells):
    config = configured("flips", 1, gridmask=1, cutout=1, channel_shuffle=1, masking=1, augmix=1)
    steps = [type(step).__name__ for step in build_augmenter(config).steps]
    assert steps == ["Dihedral", "AugMix", "ChannelShuffle", "GridMask", "CutOut", "CircleMask"]


@pytest.mark.parametrize("operations", [1, 3, 8])
def test_randaugment_applies_the_configured_number_of_operations(operations, cells):
    (step,) = augmenter_of("randaugment", 0.5, randaugment_operations=operations).steps
    assert step._compose.transforms[0].n == operations


def test_more_operations_change_more(cells):
    changes = [
        difference(cells, augmenter_of("randaugment", 0.5, randaugment_operations=n)(cells, 0)).mean()
        for n in (1, 3, 8)
    ]
    assert changes == sorted(changes)


def test_threads_may_share_an_augmenter_through_per_thread(cells):
    shared, augmenter = PerThread(augmenter_of("colour", 0.8)), augmenter_of("colour", 0.8)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: shared(cells[:16], seed), range(8)))
    assert all(np.array_equal(augmenter(cells[:16], seed), one) for seed, one in enumerate(together))


def test_a_consistency_loss_gets_the_image_and_two_views_of_it(cells):
    result = augmenter_of("augmix", 0.7, augmix_consistency=12)(cells, 0)
    assert result.shape == (96, 3, SIZE, SIZE, 3)
    assert np.array_equal(result[:, 0], cells)
    assert difference(result[:, 1], result[:, 2]).min() > 0


def test_views_are_made_from_the_result_of_the_family(cells):
    flipped = augmenter_of("flips", 1)(cells, 4)
    result = augmenter_of("flips", 1, augmix=0.1, augmix_consistency=1)(cells, 4)
    assert np.array_equal(result[:, 0], flipped)
    assert difference(result[:, 1], flipped).mean() < 10


def test_steps_after_augmix_draw_anew_for_each_view(cells):
    result = augmenter_of("cutout", 1, augmix=0.5, augmix_consistency=1)(cells, 4)
    assert difference(result[:, 0], cells).min() > 0
    hidden = (result == np.uint8([124, 116, 104])).all(axis=-1)
    assert (hidden[:, 0] != hidden[:, 1]).any(axis=(1, 2)).mean() > 0.9


def test_channels_are_reordered_and_nothing_else(cells):
    result = ChannelShuffle(1.0)(cells, np.random.default_rng(0))
    assert np.array_equal(np.sort(result, axis=3), np.sort(cells, axis=3))
    orders = [np.take(cells, order, axis=3) for order in permutations(range(3))]
    seen = {
        next(i for i, other in enumerate(orders) if np.array_equal(one, other[row])) for row, one in enumerate(result)
    }
    assert seen == {1, 2, 3, 4, 5}


def test_channels_of_the_configured_share_are_reordered(cells):
    images = np.repeat(cells, 10, axis=0)
    changed = difference(images, ChannelShuffle(0.4)(images, np.random.default_rng(0))) > 0
    assert changed.mean() == pytest.approx(0.4, abs=0.05)


def test_dihedral_reaches_the_eight_symmetries_and_nothing_else(cells):
    result = Dihedral(1.0)(cells, np.random.default_rng(0))
    equal = np.array([[np.array_equal(a, b) for a, b in zip(result, s, strict=True)] for s in symmetries(cells)])
    assert equal.any(axis=0).all()
    assert equal.any(axis=1).all()


def test_dihedral_leaves_the_expected_share_unchanged(cells):
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
def test_warp_stays_within_its_limits(change, angle, factor):
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
    kept = (augmenter_of("geometric", 1, 96)(images, 0)[..., 0] > 127).sum(axis=(1, 2)) / disc.sum()
    assert kept.min() > 0.6, "less than the smallest zoom explains: the disc has left the picture"
    assert kept.max() < 1.7


ALLOWED = {"none": {0}, "mirror": {0, 4}, "dihedral": set(range(8))}


def oriented(size):
    """Return (64, S, S, 3): 64 copies of an image that every symmetry changes."""
    image = np.zeros((size, size, 3), np.uint8)
    image[2, 2:9], image[2:6, 2] = 255, 128
    return np.repeat(image[None], 64, axis=0)


@pytest.mark.parametrize("symmetry", ALLOWED)
@pytest.mark.parametrize("step", ["Dihedral", "Warp"])
def test_only_the_configured_symmetries_are_drawn(symmetry, step):
    images = oriented(12)
    still = {"degrees": 0, "zoom": 1, "shift": 0, "shear": 0}
    made = Dihedral(1.0, symmetry) if step == "Dihedral" else Warp(share=1, symmetry=symmetry, **still)
    result = made(images, np.random.default_rng(0))
    turned = [np.rot90(flipped, k, axes=(1, 2)) for flipped in (images, images[:, :, ::-1]) for k in range(4)]
    found = {next(n for n, one in enumerate(turned) if np.array_equal(one[0], image)) for image in result}
    assert found == ALLOWED[symmetry]


@pytest.mark.parametrize("symmetry", ALLOWED)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "none"])
def test_every_family_keeps_to_the_symmetry_of_the_configuration(family, symmetry):
    if (family, symmetry) == ("flips", "none"):
        pytest.skip("refused by TrialConfig")
    steps = build_augmenter(configured(family, 1, symmetry=symmetry)).steps
    assert {step.symmetry for step in steps if hasattr(step, "symmetry")} <= {symmetry}
    moving = [transform for step in steps if isinstance(step, PerImage) for transform in names_of(step._compose)]
    assert not {"HorizontalFlip", "VerticalFlip", "RandomRotate90", "D4", "Transpose", "SquareSymmetry"} & set(moving)


def names_of(transform):
    """Return the class names of albumentations' transforms, nested ones included."""
    inner = [name for one in getattr(transform, "transforms", ()) for name in names_of(one)]
    return [type(transform).__name__, *inner]


def test_dihedral_draws_as_before_the_field_symmetry_existed():
    rng = np.random.default_rng(5)
    before = np.where(rng.random(200) < 0.6, rng.integers(0, 8, 200), 0)
    assert np.array_equal(draw_symmetries(np.random.default_rng(5), 200, 0.6, "dihedral"), before)
