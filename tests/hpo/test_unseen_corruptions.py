"""The unseen corruptions: seeded, worse with severity, lengths by the side, nothing in common with the seen ones."""

import ast
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import hpo.corruptions
import hpo.unseen_corruptions
from hpo.corruption_family import SEVERITIES
from hpo.corruptions import SEEN
from hpo.data.synthetic import cells_arrays
from hpo.errors import UsageError
from hpo.unseen_corruptions import UNSEEN

DRAWN = ("motion", "stain-deposits", "bubbles", "light-and-focus", "light-and-storage", "objects-and-light",
         "objects-and-focus")  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    """Return 24 cells in a read-only array."""
    images, _ = cells_arrays(24, 64, seed=2)
    images.flags.writeable = False
    return images


def altered(images, kind, severity):
    return np.stack(
        [UNSEEN.corrupt(image, kind, severity, np.random.default_rng([0, i])) for i, image in enumerate(images)]
    )


@pytest.mark.parametrize("kind", UNSEEN.kinds)
def test_a_higher_severity_is_farther_from_the_original(kind, cells):
    distances = [np.abs(altered(cells, kind, severity) - cells.astype(np.float64)).mean() for severity in SEVERITIES]
    assert distances[0] > 0.2
    assert all(weaker < stronger for weaker, stronger in pairwise(distances)), distances


@pytest.mark.parametrize("kind", UNSEEN.kinds)
def test_the_result_depends_on_the_generator_only_and_shape_and_type_stay(kind, cells):
    once, twice = (UNSEEN.corrupt(cells[0], kind, 3, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(once, twice)
    assert (once.shape, once.dtype, once.flags.c_contiguous) == (cells[0].shape, np.uint8, True)


@pytest.mark.parametrize("kind", DRAWN)
def test_other_draws_give_another_image(kind, cells):
    different = {UNSEEN.corrupt(cells[0], kind, 5, np.random.default_rng(seed)).tobytes() for seed in range(4)}
    assert len(different) > 1


@pytest.mark.parametrize("size", [16, 33])
@pytest.mark.parametrize("kind", UNSEEN.kinds)
def test_every_size_is_altered(kind, size):
    image = cells_arrays(8, size)[0][0]
    assert all(UNSEEN.corrupt(image, kind, s, np.random.default_rng(0)).shape == image.shape for s in SEVERITIES)


@pytest.mark.parametrize("kind", ["defocus", "motion"])
def test_a_blur_keeps_the_brightness_and_the_place(kind):
    dot = np.zeros((97, 97, 3), np.uint8)
    dot[44:53, 44:53] = 255
    blurred = UNSEEN.corrupt(dot, kind, 5, np.random.default_rng(3)).astype(np.float64).mean(axis=2)
    assert blurred.sum() == pytest.approx(dot.mean(axis=2).sum(), rel=0.02)
    row, column = ((blurred * place).sum() / blurred.sum() for place in np.indices(blurred.shape))
    assert (row, column) == pytest.approx((48, 48), abs=0.2)


@pytest.mark.parametrize("kind", ["defocus", "motion"])
def test_a_blur_is_as_wide_as_the_side_makes_it(kind):
    widths = []
    for size in (64, 192):
        line = np.zeros((size, size, 3), np.uint8)
        line[:, size // 2 - size // 32 : size // 2 + size // 32] = 255
        found = UNSEEN.corrupt(line, kind, 5, np.random.default_rng(1))[size // 2, :, 0].astype(np.float64)
        places = np.arange(size) / size
        middle = np.average(places, weights=found)
        widths.append(np.sqrt(np.average((places - middle) ** 2, weights=found)))
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


@pytest.mark.parametrize(("kind", "colour"), [("stain-deposits", 255), ("bubbles", 0)])
def test_objects_cover_the_same_share_of_an_image_of_any_side(kind, colour):
    shares = []
    for size in (64, 192):
        image = np.full((size, size, 3), colour, np.uint8)
        draws = [UNSEEN.corrupt(image, kind, 5, np.random.default_rng(seed)) for seed in range(4)]
        shares.append(np.abs(np.stack(draws) - image.astype(np.float64)).mean())
    assert shares[0] == pytest.approx(shares[1], rel=0.1)


def test_a_deposit_leaves_most_of_the_image():
    white = np.full((96, 96, 3), 255, np.uint8)
    hidden = [(UNSEEN.corrupt(white, "stain-deposits", 5, np.random.default_rng(s)) < 128).mean() for s in range(50)]
    assert 0 < np.mean(hidden) < 0.05
    assert max(hidden) < 0.1


def test_an_unknown_kind_or_severity_is_refused_with_the_rule():
    image, rng = np.zeros((16, 16, 3), np.uint8), np.random.default_rng(0)
    with pytest.raises(UsageError, match="corruption is 'noise', but must be one of pixelation, compression"):
        UNSEEN.corrupt(image, "noise", 1, rng)
    with pytest.raises(UsageError, match="severity is 0, but must be a whole number from 1 to 5"):
        UNSEEN.corrupt(image, "motion", 0, rng)


def tables(module):
    """Return every tuple of five constants in the source of a module: the magnitudes of the severities."""
    tree = ast.parse(Path(module.__file__).read_text())
    found = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) == 5]
    return {text for text in found if text[1].isdigit() or text[1] == "("}


def test_the_two_families_share_neither_a_name_nor_code_nor_a_magnitude():
    assert not set(SEEN.kinds) & set(UNSEEN.kinds)
    for family, module in ((SEEN, hpo.corruptions), (UNSEEN, hpo.unseen_corruptions)):
        assert {function.__module__ for function in family.functions.values()} == {module.__name__}
    seen, unseen = tables(hpo.corruptions), tables(hpo.unseen_corruptions)
    assert len(seen) >= 9
    assert len(unseen) >= 11
    assert not seen & unseen
