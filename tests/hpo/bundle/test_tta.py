"""Views are the symmetries of a square, and a model answers with the mean over them."""

import json

import numpy as np
import pytest

import hpo
from hpo.bundle.evaluate import evaluate
from hpo.bundle.model import VIEWS, check_tta
from hpo.errors import UsageError
from hpo.evaluation.calibration import probabilities

from .conftest import SIZE

PIXELS = np.random.default_rng(3).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.parametrize(("tta", "count"), [("none", 1), ("mirror", 2), ("flips", 4), ("dihedral", 8)])
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
def test_probabilities_are_the_mean_over_the_views(bundle, tta):
    model = hpo.load(bundle, device="cpu")
    by_hand = np.mean([probabilities(model.logits(view(PIXELS))) for view in VIEWS[tta]], axis=0)
    found = model.probabilities_of([PIXELS[:2], PIXELS[2:]], tta)
    assert np.allclose(found, by_hand, atol=1e-6)
    assert np.allclose(found.sum(axis=1), 1)
    rows = [list(one.probabilities.values()) for one in model.predict(PIXELS, tta=tta)]
    assert np.allclose(rows, found, atol=1e-6)


def test_dihedral_predictions_do_not_depend_on_the_orientation_of_the_image(bundle):
    model = hpo.load(bundle, device="cpu")
    upright = model.probabilities_of([PIXELS], "dihedral")
    for turn in VIEWS["dihedral"]:
        assert np.allclose(model.probabilities_of([turn(PIXELS)], "dihedral"), upright, atol=1e-5)


@pytest.mark.parametrize(
    ("symmetry", "allowed"),
    [("none", {"none"}), ("mirror", {"none", "mirror"}), ("dihedral", {"none", "mirror", "flips", "dihedral"})],
)
def test_only_views_that_keep_the_labels_are_allowed(symmetry, allowed):
    for tta in VIEWS:
        if tta in allowed:
            check_tta(tta, symmetry)
        else:
            with pytest.raises(UsageError, match=f"trained with symmetry {symmetry}; give --tta none"):
                check_tta(tta, symmetry)


def test_views_are_refused_before_an_image_is_read(bundle, images, cache):
    config = json.loads((bundle / "config.json").read_text())
    config["config"]["symmetry"] = "none"
    (bundle / "config.json").write_text(json.dumps(config))
    model = hpo.load(bundle, device="cpu")
    with pytest.raises(UsageError, match="--tta flips"):
        model.probabilities_of([PIXELS], "flips")
    with pytest.raises(UsageError, match="--tta dihedral"):
        evaluate(model, images, cache=cache, tta="dihedral")
    assert json.loads((bundle / "metrics.json").read_text())["test_openings"] == []


def test_a_bundle_from_before_symmetry_was_a_field_may_be_shown_all_views(bundle):
    config = json.loads((bundle / "config.json").read_text())
    del config["config"]["symmetry"]
    (bundle / "config.json").write_text(json.dumps(config))
    model = hpo.load(bundle, device="cpu")
    assert model.config.symmetry == "dihedral"
    assert model.probabilities_of([PIXELS], "dihedral").shape[0] == len(PIXELS)
