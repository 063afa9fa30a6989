"""Export, ensemble and soup of a study in which altered images count."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest

from hpo.bundle.bundle import read_bundle
from hpo.bundle.manifest import Manifest, RobustnessFigures
from hpo.cli.delivery_text import altered_lines, joined_lines, robustness_lines
from hpo.delivery.ensemble import choose, cross_check, ensemble
from hpo.delivery.ensemble_candidates import ensemble_candidates
from hpo.delivery.export import export_trial
from hpo.delivery.retrain import RetrainOptions, retrain
from hpo.delivery.selection import WeightedMetric, greedy_ensemble, merit, ranked
from hpo.delivery.soup import soup, soupable
from hpo.errors import BundleError
from hpo.evaluation.altered_part import altered_part
from hpo.evaluation.metrics import scores
from storage import read_spec
from storage.spec import write_spec

from .conftest import CLASSES, add_trial

WEIGHT = 0.5


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def altered(dataset, cache):
    return altered_part(dataset.val, cache, train=len(dataset.train))


@pytest.fixture
def robust(study, store, trained, dataset, altered):
    """Return the study with a robustness: trial 1 is best on altered images."""
    write_spec(study, read_spec(study).model_copy(update={"robustness": WEIGHT}))
    for number, one in enumerate(trained):
        logits = np.random.default_rng(number).normal(0, 1, (len(altered), len(CLASSES))).astype(np.float32)
        logits[np.arange(len(altered)), altered.labels] += 9 if number == 1 else 1
        files = {
            "model.safetensors": one.weights, "logits.npy": npy(one.logits), "labels.npy": npy(dataset.val.labels),
            "altered_logits.npy": npy(logits), "altered_rows.npy": npy(altered.rows),
        }  # fmt: skip
        store.write(number, "best", files, {"epoch": 2, "metrics": {}})
    return study


def test_a_bundle_says_what_the_value_of_its_trial_is_made_of(robust, store, trained, altered, tmp_path):
    number = add_trial(robust, trained[0].config, trained[0].facts, 0.7, clean=0.8, altered=0.6)
    files = dict(store.read(0, "best").files)
    store.write(number, "best", files, {"epoch": 2, "metrics": {}})
    manifest, found = export_trial(robust, robust.trials[number], store, tmp_path / "best")
    assert manifest.robustness is not None
    assert (manifest.robustness.weight, manifest.robustness.clean, manifest.robustness.altered) == (WEIGHT, 0.8, 0.6)
    assert manifest.robustness.value == pytest.approx(0.7)
    assert Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())), source="here") == manifest
    written = read_bundle(tmp_path / "best")
    assert written.metrics["validation"]["n"] == found.n == len(set(altered.rows.tolist()))
    stored = written.metrics["altered"]
    logits = np.load(io.BytesIO(files["altered_logits.npy"]))
    low, high = stored.pop("interval")
    assert low < stored["accuracy"] < high
    assert stored == {**scores(altered.labels, logits), "n": len(altered), "images": found.n}
    assert written.altered is not None
    assert np.array_equal(written.altered.rows, altered.rows)
    assert np.array_equal(written.altered.logits, logits)
    assert "accuracy 0.8000 on clean and 0.6000 on altered" in robustness_lines(manifest)[0]


def test_a_retraining_keeps_the_figures_of_its_trial(bundle, images, cache, tmp_path):
    before = read_bundle(bundle)
    figures = RobustnessFigures(weight=WEIGHT, clean=0.8, altered=0.6)
    metrics = {**before.metrics, "altered": {"accuracy": 0.6, "n": 12, "images": 6}}
    robust = replace(before, manifest=before.manifest.model_copy(update={"robustness": figures}), metrics=metrics)
    result = retrain(robust, images, tmp_path / "final", RetrainOptions(cache=cache))
    assert result.manifest.robustness == figures
    written = read_bundle(tmp_path / "final")
    assert (written.manifest.robustness, written.metrics["altered"]) == (figures, metrics["altered"])


def test_a_bundle_without_robustness_is_as_before(study, store, tmp_path):
    manifest, _ = export_trial(study, study.trials[0], store, tmp_path / "best")
    assert "robustness" not in manifest.to_dict()
    assert "altered" not in read_bundle(tmp_path / "best").metrics
    assert robustness_lines(manifest) == []


def test_the_interval_on_altered_images_is_shown_where_the_bundle_has_one():
    known = {"accuracy": 0.6, "interval": [0.4, 0.8], "n": 12}
    assert altered_lines({"altered": known})[0].endswith("0.6000 (95 % interval 0.4000 to 0.8000, n 12)")
    assert altered_lines({"altered": {"accuracy": 0.6, "n": 12}}) == altered_lines({}) == []


def test_altered_rows_count_with_their_weight():
    labels = np.array([0, 1, 0, 1])
    altered = np.array([False, False, True, True])
    right, half = np.eye(2)[labels] * 0.8 + 0.1, np.eye(2)[[0, 1, 1, 1]] * 0.8 + 0.1
    metric = WeightedMetric("accuracy", altered, 0.25)
    assert merit(labels, right, metric)[0] == 1
    assert merit(labels, half, metric)[0] == pytest.approx(0.75 + 0.25 * 0.5)
    assert merit(labels, half, metric)[1] < merit(labels, right, metric)[1]
    assert ranked(labels, np.stack([half, right]), metric) == [1, 0]
    clean = metric.of(~altered)
    assert merit(labels[:2], half[:2], clean) == merit(labels[:2], half[:2], "accuracy"), "no altered image is left"
    assert set(greedy_ensemble(labels, np.stack([half, right]), metric)) == {1}


def test_an_ensemble_is_chosen_by_altered_images_too(robust, store, tmp_path):
    candidates = ensemble_candidates(robust, store, 10)
    choice = choose(candidates)
    assert candidates.found[choice.best].trial.number == 1
    result = ensemble(candidates, tmp_path / "joint")
    assert result.best == 1
    assert result.altered is not None
    assert result.altered.n == len(candidates.rows) - len(candidates.labels)
    weights = (1 - WEIGHT, WEIGHT)
    assert np.dot(weights, (result.validation.joined, result.altered.joined)) >= np.dot(
        weights, (result.validation.best, result.altered.best)
    )
    assert any("the same images, altered" in line for line in joined_lines("joint", result))
    written = read_bundle(tmp_path / "joint")
    assert len(written.validation.labels) == len(candidates.labels), "calibrated on clean images"
    if written.manifest.members:
        assert written.altered is not None
        assert np.array_equal(written.altered.rows, candidates.rows[len(candidates.labels) :])
        crossed = cross_check(candidates)
        assert crossed is not None
        assert np.array_equal(written.altered.logits, crossed.logits[len(candidates.labels) :]), "chosen without them"


def test_a_soup_is_chosen_by_altered_images_too(robust, store, dataset, cache, tmp_path):
    lines: list[str] = []
    candidates = soupable(ensemble_candidates(robust, store, 10))
    result = soup(candidates, dataset, tmp_path / "soup", cache=cache, on_line=lines.append)
    assert result.best == 1
    assert result.altered is not None
    assert any("value, of accuracy" in line for line in lines)
    with pytest.raises(ValueError, match="no cache folder"):
        soup(candidates, dataset, tmp_path / "other", on_line=lines.append)


def test_a_trial_without_predictions_on_altered_images_cannot_join(study, store):
    write_spec(study, read_spec(study).model_copy(update={"robustness": WEIGHT}))
    with pytest.raises(BundleError, match="predictions on altered images, which count in this study, were not stored"):
        ensemble_candidates(study, store, 10)
