"""What prediction sets hold on labelled images is measured by `hpo evaluate`, printed, and kept with the bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import hpo
from hpo.bundle.bundle import Extras, read_bundle, write_bundle
from hpo.bundle.evaluate import evaluate as evaluate_bundle
from hpo.bundle.json_files import json_text
from hpo.bundle.set_coverage import coverage_of, latest_sets
from hpo.bundle.stored_metrics import METRICS
from hpo.bundle.stored_scores import stored_scores
from hpo.bundle.validation import Validation
from hpo.cli import main
from hpo.data import ImageDigests
from hpo.errors import BundleError
from hpo.evaluation.conformal import SetRule
from hpo.report.build import report_bundle
from hpo.report.model_data import ReportOptions

from .conftest import draw


@pytest.fixture
def known(tmp_path, manifest, weights, dataset) -> Path:
    """Return a bundle whose validation predictions are right nine times in ten."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 3
    logits = 4 * np.eye(3)[labels] + 1.6 * generator.standard_normal((200, 3))
    validation = Validation(labels, logits.astype(np.float32))
    alone, extras = manifest.model_copy(update={"compared": 2}), Extras(known=ImageDigests.of(dataset))
    write_bundle(tmp_path / "known", alone, weights, {}, validation=validation, extras=extras)
    return tmp_path / "known"


@pytest.fixture
def evaluate(known, images, tmp_path):
    def run(*options: object, data: object = images) -> Result:
        fixed = ["--home", str(tmp_path / "home"), "--threads", "1", "--device", "cpu"]
        return CliRunner().invoke(main, ["evaluate", str(known), "--data", str(data), *map(str, options), *fixed])

    return run


def test_coverage_and_size_are_counted():
    rows = np.array([[0.8, 0.2, 0.0], [0.4, 0.6, 0.0], [0.1, 0.1, 0.8]])
    found = coverage_of(SetRule("lac", 0.9, np.full(3, 0.65)), np.array([0, 0, 1]), rows)
    assert (found.coverage, found.size, found.images) == (pytest.approx(2 / 3), pytest.approx(4 / 3), 3)
    assert found.interval[0] < found.coverage < found.interval[1]


def test_evaluate_measures_sets_on_the_test_part_and_keeps_its_predictions(evaluate, known):
    result = evaluate("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (clean,) = found["sets"]["found"]
    assert (clean["kind"], clean["images"], found["sets"]["level"]) == ("clean", found["n"], 0.95)
    assert found["sets"]["clean"] == {**found["sets"]["clean"], "source": "validation", "best_of": 2, "images": 200}
    bundle = read_bundle(known)
    record, scores = latest_sets(bundle), stored_scores(bundle, "test", altered=False)
    assert record is not None
    assert scores is not None
    assert record.found[0].coverage == clean["coverage"]
    assert scores[0].right.mean() == pytest.approx(found["accuracy"])
    shown = " ".join(evaluate().stdout.split())
    assert "prediction sets for 0.95 (lac), by the 200 validation images of the best of 2 trials" in shown


def test_with_corruptions_sets_are_measured_by_severity_and_can_be_calibrated_later(evaluate, known):
    found = json.loads(evaluate("--corrupted", "--json").stdout)["sets"]["found"]
    kinds = [(one["kind"], one["severity"]) for one in found]
    assert kinds[0] == ("clean", None)
    assert {kind for kind, _ in kinds} == {"clean", "seen", "unseen"}
    assert ("seen", 5) in kinds
    scores = stored_scores(read_bundle(known), "test", altered=True)
    assert scores is not None
    assert set(scores[0].severity) == {1, 2, 3, 4, 5}
    record = latest_sets(read_bundle(known))
    assert record is not None
    assert len(record.found) == len(found)


def test_on_images_that_made_the_model_no_sets_are_measured(evaluate, known):
    found = json.loads(evaluate("--split", "val", "--corrupted", "--json").stdout)
    assert (found["sets"], found["without_sets"]) == (None, "the images took part in making the model")
    assert stored_scores(read_bundle(known), "val", altered=True) is not None, "but what is altered can calibrate"
    assert stored_scores(read_bundle(known), "val", altered=False) is None


def test_on_other_data_sets_are_measured_and_nothing_is_kept(evaluate, known, tmp_path):
    found = json.loads(evaluate("--json", data=draw(tmp_path / "other", 3, seed=9)).stdout)
    assert found["sets"]["found"][0]["images"] == 9
    assert latest_sets(read_bundle(known)) is None


def test_a_bundle_without_predictions_is_evaluated_without_sets(bundle, images, cache):
    found = evaluate_bundle(hpo.load(bundle, "cpu"), images, cache=cache)
    assert found.sets is None
    assert "holds no validation predictions" in found.without_sets
    assert stored_scores(read_bundle(bundle), "test", altered=False) is not None, "and can prove something from now on"
    assert hpo.load(bundle, "cpu").predict_sets([], 0.5) == []


def test_the_report_shows_what_sets_hold(evaluate, known, cache):
    options = ReportOptions(cache, "cpu")
    before = report_bundle(known, None, options)
    assert "200 validation images" in before
    assert "These are the images that the sets were calibrated on" in before
    evaluate()
    assert "On the test part, which calibrated nothing of these sets" in report_bundle(known, None, options)


def test_records_that_were_changed_by_hand_are_refused_in_one_line(evaluate, known):
    evaluate()
    metrics = json.loads((known / METRICS).read_text())
    metrics["sets"][0]["found"][0]["coverage"] = 2
    (known / METRICS).write_text(json_text(metrics))
    with pytest.raises(BundleError, match="sets: counts or shares are out of range"):
        latest_sets(read_bundle(known))
