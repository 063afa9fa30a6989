"""Thresholds and prediction sets of a bundle: what they are proved on, and what they allow for."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import hpo
from hpo.bundle.bundle import Bundle, Extras, read_bundle, write_bundle
from hpo.bundle.calibration_images import calibration_images
from hpo.bundle.json_files import json_text
from hpo.bundle.proofs import SetOptions, sets_of
from hpo.bundle.stored_metrics import METRICS, merge_metrics, new_opening, record_opening
from hpo.bundle.stored_scores import MOST_ALTERED, keep_scores, scores_record, stored_scores
from hpo.bundle.validation import AlteredPredictions, Validation
from hpo.cli import main
from hpo.errors import BundleError, UsageError
from hpo.evaluation.calibration import probabilities
from hpo.evaluation.conformal import ScoredImages

from .conftest import CLASSES


def validation_of(n: int, seed: int = 0, sharp: float = 4.0) -> Validation:
    """Return predictions that are right nine times in ten or so."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    logits = sharp * np.eye(3)[labels] + 1.6 * generator.standard_normal((n, 3))
    return Validation(labels, logits.astype(np.float32))


@pytest.fixture
def make(tmp_path, manifest, weights):
    """Return a function that writes a bundle with predictions on the validation part, and reads it."""

    def made(n: int = 300, altered: int = 0, metrics: dict[str, Any] | None = None, **changes: Any) -> Bundle:
        validation, extras = validation_of(n), Extras()
        if altered:
            rows = np.tile(np.arange(altered), 2)
            harder = validation_of(n, seed=1, sharp=2.0).logits[rows]
            extras = Extras(altered=AlteredPredictions(rows, harder))
        written = manifest.model_copy(update={"compared": 1, **changes})
        write_bundle(tmp_path / "b", written, weights, metrics or {}, validation=validation, extras=extras, force=True)
        return read_bundle(tmp_path / "b")

    return made


def measured(
    bundle: Bundle, n: int = 300, *, test: str = "t" * 32, altered: bool = False, sharp: float = 4.0
) -> Bundle:
    """Return the bundle after its test part was measured."""
    found = validation_of(n, seed=5, sharp=sharp)
    scores = ScoredImages.of(found.labels, probabilities(found.logits), severity=np.arange(n) % 5 + 1)
    record = scores_record(
        "test", test, bundle.manifest.data.fingerprint, bundle.model_digest,
        clean=None if altered else scores, altered=scores if altered else None,
    )  # fmt: skip
    keep_scores(bundle.path, record)
    return read_bundle(bundle.path)


def test_scores_come_back_as_they_were_kept(make):
    bundle = measured(measured(make()), altered=True)
    clean, altered = (stored_scores(bundle, "test", altered=which) for which in (False, True))
    assert clean is not None
    assert altered is not None, "clean scores are kept when altered ones follow"
    found = validation_of(300, seed=5)
    expected = ScoredImages.of(found.labels, probabilities(found.logits))
    for name, values in vars(expected).items():
        if name != "severity":
            assert np.allclose(getattr(clean[0], name), values, atol=1e-6)
    assert np.array_equal(clean[0].right, expected.right)
    assert set(altered[0].severity) == {1, 2, 3, 4, 5}
    assert clean[1] == "t" * 32
    assert len(read_bundle(bundle.path).metrics["scored"]) == 1


def test_scores_of_many_altered_images_are_those_of_a_sample_of_originals(make):
    bundle, count = make(), MOST_ALTERED + 40
    found = validation_of(count)
    twice = ScoredImages.of(
        np.tile(found.labels, 2), np.tile(probabilities(found.logits), (2, 1)), originals=np.tile(np.arange(count), 2)
    )
    record = scores_record(
        "test", "t", bundle.manifest.data.fingerprint, bundle.model_digest, clean=None, altered=twice
    )
    keep_scores(bundle.path, record)
    kept = stored_scores(read_bundle(bundle.path), "test", altered=True)
    assert kept is not None
    assert (len(kept[0]), len(np.unique(kept[0].originals))) == (2 * MOST_ALTERED, MOST_ALTERED)


def test_scores_of_other_weights_or_data_prove_nothing(make):
    bundle = measured(make())
    for change in ({"model": "x"}, {"data": "x"}, {"part": "val"}):
        (one,) = bundle.metrics["scored"]
        other = replace(bundle, metrics={**bundle.metrics, "scored": [{**one, **change}]})
        assert stored_scores(other, "test", altered=False) is None


@pytest.mark.parametrize("text", ["?", "QUJD", "A" * 100, "/" * 100])
def test_scores_that_were_changed_by_hand_are_refused_in_one_line(make, text):
    bundle = measured(make())
    (one,) = bundle.metrics["scored"]
    wrong = replace(bundle, metrics={**bundle.metrics, "scored": [{**one, "clean": text}]})
    with pytest.raises(BundleError, match=r"metrics.json: scored: .*export the bundle again$"):
        stored_scores(wrong, "test", altered=False)


def test_records_of_two_copies_of_a_bundle_are_merged(make):
    bundle = measured(make())
    theirs = {**bundle.metrics, "scored": [{**bundle.metrics["scored"][0], "images": "u", "date": "2020"}]}
    merge_metrics(bundle.path, json_text(theirs).encode())
    assert {one["images"] for one in read_bundle(bundle.path).metrics["scored"]} == {"u", "t" * 32}


def test_a_threshold_is_proved_on_the_test_part_where_that_answers_more_images(make):
    """Validation images have chosen the best of 20 trials, test images have chosen nothing."""
    bundle = make(compared=20)
    before = hpo.load(bundle.path, "cpu").abstention(0.9)
    after = hpo.load(measured(bundle, 900).path, "cpu").abstention(0.9)
    assert (before.source, before.compared, before.best_of) == ("validation", 20, 20)
    assert (after.source, after.compared, after.best_of) == ("test", 2, 1), "the better of two proofs is taken"
    assert after.threshold < before.threshold


def test_several_models_that_were_measured_on_the_test_part_are_allowed_for(make):
    bundle = make(compared=3)
    for model in ("a", "b", "c"):
        record_opening(bundle.path, new_opening("compare", "x", 300, test="t" * 32, model=model))
    clean = calibration_images(measured(bundle))
    assert [(one.source, one.best_of, one.compared) for one in clean] == [("test", 3, 6), ("validation", 3, 6)]


def test_a_retrained_model_is_proved_by_its_own_predictions_where_there_are_some(make):
    bundle = make(compared=5, stage="retrained")
    assert [one.source for one in calibration_images(bundle)] == ["trial"]
    assert [(one.source, one.compared) for one in calibration_images(measured(bundle))] == [("test", 1)]
    assert [one.source for one in calibration_images(measured(bundle), test=False)] == ["trial"]


def test_sets_hold_for_clean_and_for_altered_images(make):
    bundle = make(altered=200)
    both, clean = sets_of(bundle, SetOptions()), sets_of(bundle, SetOptions(clean=True))
    assert both.altered is not None
    assert both.altered.found.originals == 200
    assert (both.rule.thresholds > clean.rule.thresholds).all(), "altered images are harder"
    assert clean.without_altered == "as was asked"
    assert both.worst_severity() is None, "two corruptions have no one severity"
    worst = sets_of(measured(bundle, altered=True, sharp=1.0), SetOptions()).worst_severity()
    assert worst is None or worst[1] <= worst[2]


def test_a_level_that_needs_more_images_names_the_highest_that_these_can_give(make):
    with pytest.raises(
        UsageError,
        match=r"--sets is 0.99, but the 30 validation images of the best of 10 trials can give at most 0.\d+",
    ):
        sets_of(make(30, compared=10), SetOptions(0.99))
    with pytest.raises(
        UsageError, match=r"the 10 images of class blue can give at most 0.909; give a lower --sets, or"
    ):
        sets_of(make(30), SetOptions(by_class=True))
    assert sets_of(make(30), SetOptions(0.9, by_class=True)).rule.thresholds.shape == (3,)
    few = sets_of(make(300, altered=8), SetOptions())
    assert few.altered is None
    assert few.without_altered.endswith("the 8 validation images can give at most 0.888; give a lower --sets")


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0, 2.0])
def test_a_level_out_of_range_is_refused(make, level):
    with pytest.raises(UsageError, match="must be above 0 and below 1"):
        sets_of(make(), SetOptions(level))


def test_a_bundle_that_can_prove_nothing_says_why(bundle, make):
    with pytest.raises(
        BundleError, match=r"holds no validation predictions.*or leave --sets out, or measure the model"
    ):
        sets_of(read_bundle(bundle), SetOptions())
    soup = make(stage="soup", ingredients=(1, 2))
    with pytest.raises(BundleError, match=r"chosen without the image.*`hpo ensemble --study colours --soup --data"):
        sets_of(soup, SetOptions())


def test_altered_predictions_that_are_not_of_these_images_are_refused(make):
    bundle = make(altered=20)
    assert bundle.altered is not None
    assert bundle.validation is not None
    assert bundle.altered.fits(bundle.validation)
    for wrong in (bundle.altered.rows + 300, bundle.altered.rows[:5]):
        assert not AlteredPredictions(wrong, bundle.altered.logits).fits(bundle.validation)


def test_python_gives_each_image_its_set(make, images):
    model = hpo.load(make().path, "cpu")
    paths = sorted(images.rglob("*.png"))[:6]
    found, plain = model.predict_sets(paths, 0.9), model.predict(paths)
    rule = model.sets(SetOptions(0.9)).rule
    for one, other in zip(found, plain, strict=True):
        row = np.array([list(one.probabilities.values())])
        assert set(one.prediction_set or ()) == {CLASSES[i] for i in np.flatnonzero(rule.members(row)[0])}
        assert (one.prediction_set or ())[0] == one.label == other.label, "the most probable first"
        assert other.prediction_set is None


def test_predict_writes_sets_as_json_and_csv_and_says_what_they_hold(make, images, tmp_path):
    bundle = measured(make(altered=200, compared=20), altered=True)
    out = tmp_path / "predictions.csv"
    call = ["predict", str(bundle.path), str(images), "--sets", "0.9", "--threads", "1", "--device", "cpu"]
    result = CliRunner().invoke(main, [*call, "--out", str(out)])
    assert result.exit_code == 0, result.output
    line = " ".join(result.stderr.split())
    assert "sets hold the true class of 0.9 of images like the 300 validation images of the best of 20 trials" in line
    assert "at the worst severity (" in line
    rows = list(csv.DictReader(out.read_text().splitlines()))
    found = json.loads(CliRunner().invoke(main, call).stdout)
    for row, one in zip(rows, found, strict=True):
        assert row["prediction_set"] == "; ".join(one["prediction_set"])
        assert int(row["set_size"]) == len(one["prediction_set"]) >= 1
    plain = json.loads(CliRunner().invoke(main, [*call[:3], *call[5:]]).stdout)
    assert "prediction_set" not in plain[0]


def test_options_of_sets_without_sets_are_a_mistake(make, images):
    result = CliRunner().invoke(main, ["predict", str(make().path), str(images), "--sets-by-class"])
    assert result.exit_code == 2
    assert "give --sets 0.95 too" in result.stderr


def test_metrics_without_a_list_of_scores_are_refused(make):
    bundle = make()
    (bundle.path / METRICS).write_text(json_text({"scored": [{"date": "x", "images": 3}]}))
    with pytest.raises(BundleError, match="scored"):
        read_bundle(bundle.path)
