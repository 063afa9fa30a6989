"""Views: the symmetries of a square, and that their mean is what a model answers with."""

import numpy as np
import pytest

import hpo
from hpo.delivery.tta import VIEWS
from hpo.evaluation.calibration import probabilities

from .conftest import SIZE

PIXELS = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("flips", 4), ("dihedral", 8)])
def test_views_are_all_different_and_the_image_itself_comes_first(tta, count):
    seen = [view(PIXELS) for view in VIEWS[tta]]
    assert np.array_equal(seen[0], PIXELS)
    assert len({one.tobytes() for one in seen}) == len(seen) == count


def test_flips_are_left_right_up_down_and_both():
    seen = {view(PIXELS).tobytes() for view in VIEWS["flips"]}
    expected = (PIXELS, PIXELS[:, :, ::-1], PIXELS[:, ::-1], PIXELS[:, ::-1, ::-1])
    assert seen == {np.ascontiguousarray(one).tobytes() for one in expected}


def test_views_of_a_view_are_the_same_views():
    seen = {view(PIXELS).tobytes() for view in VIEWS["dihedral"]}
    for turn in VIEWS["dihedral"]:
        assert {view(turn(PIXELS)).tobytes() for view in VIEWS["dihedral"]} == seen


@pytest.mark.parametrize("tta", ["flips", "dihedral"])
def test_a_model_answers_with_the_mean_of_the_probabilities_of_its_views(bundle, tta):
    model = hpo.load(bundle, device="cpu")
    by_hand = np.mean([probabilities(model.logits(view(PIXELS))) for view in VIEWS[tta]], axis=0)
    found = model.probabilities_of([PIXELS[:2], PIXELS[2:]], tta)
    assert np.allclose(found, by_hand, atol=1e-6)
    assert np.allclose(found.sum(axis=1), 1)
    rows = [list(one.probabilities.values()) for one in model.predict(PIXELS, tta=tta)]
    assert np.allclose(rows, found, atol=1e-6)


def test_an_answer_does_not_depend_on_how_the_image_lies(bundle):
    model = hpo.load(bundle, device="cpu")
    upright = model.probabilities_of([PIXELS], "dihedral")
    for turn in VIEWS["dihedral"]:
        assert np.allclose(model.probabilities_of([turn(PIXELS)], "dihedral"), upright, atol=1e-5)
