"""Finishing: what is taken and what is not, what is written, and that a finished bundle is a bundle like any other."""

from __future__ import annotations

import io
import json
import re
import time
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from optuna.trial import TrialState, create_trial
from rich.console import Console

from hpo.bundle.bundle import read_bundle
from hpo.bundle.manifest import Finished, HeadChange, Interpolation, Manifest
from hpo.bundle.model import Model
from hpo.cli import main
from hpo.cli.delivery_text import robustness_lines
from hpo.cli.export_best import cost_lines, finishing_lines, print_finishing
from hpo.data import Part
from hpo.data.cache import remember_data, remembered_data
from hpo.delivery import ensemble, finished_export, finishing, soup, weight_changes
from hpo.delivery import retrain as retrain_module
from hpo.delivery.ensemble_candidates import ensemble_candidates
from hpo.delivery.export import choose_trial, compared_trials, export_trial
from hpo.delivery.finished_export import FinishOptions, export_finished
from hpo.delivery.finishing import Finishing, TriedStep, finish
from hpo.delivery.finishing_steps import (
    EnsembleStep,
    HeadStep,
    LineStep,
    SoupStep,
    StatisticsStep,
    ViewsStep,
)
from hpo.delivery.finishing_task import Budget, ChosenModel, FinishingStep, FinishingTask, OutOfTime
from hpo.delivery.retrain import RetrainOptions
from hpo.delivery.validation_images import ValidationImages
from hpo.errors import BundleError, DataError, UsageError
from hpo.evaluation.paired_difference import PairedDifference
from hpo.search.status import kept_first
from storage import read_spec

from .conftest import draw, keep

N = 400


def part(labels: np.ndarray) -> Part:
    rows = np.zeros(len(labels), dtype=np.int64)
    return Part(np.zeros((1, 1, 1, 3), np.uint8), rows, labels, [str(row) for row in range(len(labels))])


@pytest.fixture
def task() -> FinishingTask:
    """Return a task with 400 images of two classes, of which the trial has 80 % right."""
    labels = np.arange(N) % 2
    images = ValidationImages(part(labels), None, np.arange(N), "accuracy")
    logits = np.eye(2, dtype=np.float32)[np.where(np.arange(N) % 5 == 0, 1 - labels, labels)]
    nothing: Any = None
    return FinishingTask(nothing, {}, logits, nothing, images, Path(), Budget(60))


class FakeStep(FinishingStep):
    """A step whose result `right` decides."""

    why = ""

    def refusal(self, before: ChosenModel) -> str:
        return self.why

    def choose(self, half: np.ndarray, before: ChosenModel) -> ChosenModel:
        right = self.right(half)
        labels = self.task.images.val.labels
        logits = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
        return before.changed(logits, before.read, self.name)

    @abstractmethod
    def right(self, half: np.ndarray) -> np.ndarray:
        """Return which images are right (N,) by the model that `half` chooses."""


class Overfits(FakeStep):
    """Knows the images that choose it by heart, and guesses all others."""

    name = "overfits"

    def right(self, half: np.ndarray) -> np.ndarray:
        return half | (np.random.default_rng(0).random(N) < 0.5)


class Helps(FakeStep):
    """Has 95 % right, whichever images choose it."""

    name = "helps"

    def right(self, half: np.ndarray) -> np.ndarray:
        return np.arange(N) % 20 != 0


class HelpsMore(FakeStep):
    name = "helps more"

    def right(self, half: np.ndarray) -> np.ndarray:
        return np.arange(N) % 100 != 0


class HelpsALittle(FakeStep):
    """Mends 2 of the 80 mistakes."""

    name = "helps a little"

    def right(self, half: np.ndarray) -> np.ndarray:
        return (np.arange(N) % 5 != 0) | (np.arange(N) < 10)


class Refuses(FakeStep):
    name = "refuses"
    why = "there is none"

    def right(self, half: np.ndarray) -> np.ndarray:
        pytest.fail("it was tried")


class Slow(FakeStep):
    name = "slow"

    def right(self, half: np.ndarray) -> np.ndarray:
        raise OutOfTime


def tried(task: FinishingTask, monkeypatch, single: list, several: list = (), mode: str = "all") -> Finishing:  # type: ignore[assignment]
    monkeypatch.setattr(finishing, "SINGLE", tuple(single))
    monkeypatch.setattr(finishing, "SEVERAL", tuple(several))
    found = finish(task, mode).finishing
    assert Finishing.from_dict(json.loads(json.dumps(found.to_dict())), "here") == found
    return found


def test_what_only_seems_to_help_is_not_taken(task, monkeypatch) -> None:
    found = tried(task, monkeypatch, [Overfits, Refuses, HelpsALittle, Slow])
    assert [(one.name, one.taken, one.why) for one in found.tried] == [
        ("overfits", False, "no gain"),
        ("refuses", False, "not tried: there is none"),
        ("helps a little", False, "within noise"),
        ("slow", False, "the time was up"),
    ]
    assert found.required == pytest.approx(2.13, abs=0.01), "three steps could be tried"
    assert (found.images, found.units, found.taken) == (N, N, ())
    assert finishing_lines(found)[0].startswith("finished: nothing of what was tried gains more than noise")


def test_steps_add_up_and_each_is_compared_with_what_those_before_gave(task, monkeypatch) -> None:
    monkeypatch.setattr(finishing, "SINGLE", (Helps, Overfits))
    monkeypatch.setattr(finishing, "SEVERAL", (HelpsMore, HelpsALittle))
    done = finish(task, "all")
    first, second, third, fourth = done.finishing.tried
    assert (first.taken, first.before, first.after) == (True, pytest.approx(0.8), pytest.approx(0.95))
    assert (second.taken, second.before) == (False, pytest.approx(0.95))
    assert (third.taken, third.before, third.after) == (True, pytest.approx(0.95), pytest.approx(0.99))
    assert (fourth.taken, fourth.why) == (False, "no gain")
    assert (done.crossed.argmax(axis=1) == task.images.val.labels).mean() == pytest.approx(0.99)


def test_of_two_steps_that_cost_more_the_better_is_taken_and_none_where_one_pass_is_wanted(task, monkeypatch) -> None:
    found = tried(task, monkeypatch, [], [Helps, HelpsMore])
    assert [(one.taken, one.why) for one in found.tried] == [(False, "helps more gains more"), (True, "")]
    assert tried(task, monkeypatch, [Refuses], [Helps], mode="single").taken == ()


# The real steps, on the tiny study of these tests: what helps is decided by hand.


@pytest.fixture
def ready(study, store, images, cache, monkeypatch):
    """Return what exports the study's best trial with the given steps, each taken."""
    monkeypatch.setattr(finished_export, "LEAST_IMAGES", 2)
    monkeypatch.setattr(finished_export, "open_study", lambda db, name: study)
    options = FinishOptions(cache, data=images, data_named=True)

    def export(out: Path, *steps: type[FinishingStep], taken: bool = True, **changes: Any):
        single = tuple(one for one in steps if one not in (EnsembleStep, ViewsStep))
        monkeypatch.setattr(finishing, "SINGLE", single)
        monkeypatch.setattr(finishing, "SEVERAL", tuple(one for one in steps if one not in single))
        monkeypatch.setattr(PairedDifference, "exceeds", lambda self, errors: taken)
        named = {key: changes.pop(key) for key in ("trial",) if key in changes}
        return export_finished(None, "colours", store, out, replace(options, **changes), **named)

    return export


def prefer(monkeypatch, *steps: type[FinishingStep]) -> None:
    """Let a step choose its first variant, whatever it is worth."""
    for step in steps:
        monkeypatch.setattr(step, "choose", lambda self, half, before: self._variants_of(before)[0])


def test_changes_of_one_model_add_up_and_the_bundle_predicts_them(ready, study, dataset, tmp_path, monkeypatch) -> None:
    prefer(monkeypatch, StatisticsStep, LineStep, HeadStep, ViewsStep)
    monkeypatch.setattr(HeadStep, "refusal", lambda self, before: "")
    found = ready(tmp_path / "best", StatisticsStep, LineStep, HeadStep, ViewsStep)
    assert [one.name for one in found.finishing.taken] == ["statistics", "WiSE-FT", "head", "views"]
    assert [one.forwards for one in found.finishing.taken] == [1, 1, 1, 2]
    written = read_bundle(tmp_path / "best")
    finished = written.manifest.finished
    assert (finished.statistics, finished.head.method, finished.views) == (len(dataset.train), "retrained", "mirror")
    assert written.manifest.interpolated.share == 0.9
    assert Manifest.from_dict(json.loads(json.dumps(written.manifest.to_dict())), source="here") == written.manifest
    assert written.crossed.shape == written.validation.logits.shape
    assert written.manifest.compared == 2**4 * compared_trials(study), "each step might have been left out"
    model = Model(written, "cpu")
    predicted = model.logits_of(dataset.val.batches(4))
    np.testing.assert_allclose(predicted, written.validation.logits, atol=1e-4)
    assert written.metrics["validation"]["accuracy"] == found.report.accuracy
    assert written.metrics["finishing"] == found.finishing.to_dict()
    with pytest.raises(UsageError, match="mean over views already"):
        model.probabilities_of(dataset.val.batches(4), "dihedral")
    assert "each prediction takes 2 forward passes" in cost_lines(found.manifest, found.finishing)[0]


def test_an_ensemble_joins_the_finished_model_with_other_trials(ready, dataset, tmp_path, monkeypatch) -> None:
    prefer(monkeypatch, LineStep)
    asked: list[int | None] = []

    def chosen(labels, members, metric, most=None):
        asked.append(most)
        return (0, 0, 2)

    monkeypatch.setattr(ensemble, "greedy_ensemble", chosen)
    found = ready(tmp_path / "best", LineStep, EnsembleStep)
    written = read_bundle(tmp_path / "best")
    assert asked == [3, 3, 3]
    assert (written.manifest.stage, written.manifest.interpolated.share) == ("ensemble", 0.9)
    assert [(one.trial, one.weight) for one in written.manifest.members] == [
        (0, pytest.approx(2 / 3)),
        (2, pytest.approx(1 / 3)),
    ]
    predicted = Model(written, "cpu").logits_of(dataset.val.batches(4))
    np.testing.assert_allclose(predicted, written.validation.logits, atol=1e-3)
    assert written.metrics["joined"]["best_trial"] == 0
    assert "hpo export-best --study colours --trial 0" in cost_lines(found.manifest, found.finishing)[-1]


def test_a_soup_begins_with_the_best_trial(ready, dataset, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(soup, "greedy_soup", lambda order, merit_of: (order[0], 2))
    found = ready(tmp_path / "best", SoupStep, StatisticsStep)
    written = read_bundle(tmp_path / "best")
    assert (written.manifest.stage, written.manifest.ingredients) == ("soup", (0, 2))
    assert found.finishing.tried[1].why == "not tried: those of a soup are estimated anew already"
    predicted = Model(written, "cpu").logits_of(dataset.val.batches(4))
    np.testing.assert_allclose(predicted, written.validation.logits, atol=1e-4)


def test_where_nothing_helps_the_bundle_is_that_of_the_trial_with_a_note(ready, study, store, tmp_path) -> None:
    export_trial(study, choose_trial(study), store, tmp_path / "plain")
    found = ready(tmp_path / "best", StatisticsStep, LineStep, EnsembleStep, taken=False)
    plain, written = read_bundle(tmp_path / "plain"), read_bundle(tmp_path / "best")
    assert (written.model, written.manifest) == (plain.model, plain.manifest)
    assert {key: value for key, value in written.metrics.items() if key != "finishing"} == plain.metrics
    assert len(found.finishing.tried) == 3


def test_a_trial_that_is_named_is_not_joined(ready, tmp_path) -> None:
    found = ready(tmp_path / "best", SoupStep, EnsembleStep, trial=1)
    assert found.manifest.trial == 1
    assert {one.why for one in found.finishing.tried} == {"not tried: --trial names one trial"}


def test_few_images_missing_data_and_other_data_are_one_reason(
    ready, study, cache, images, tmp_path, monkeypatch
) -> None:
    other = draw(tmp_path / "other", 8, seed=9)
    with pytest.raises(DataError, match="study 'colours' was made with other images"):
        ready(tmp_path / "a", data=other)
    assert not (tmp_path / "a").exists()
    found = ready(tmp_path / "b", data=other, data_named=False)
    assert "other images" in found.finishing.reason
    assert "finishing" not in read_bundle(tmp_path / "b").metrics
    empty = tmp_path / "cache"
    assert "give --data DATA" in ready(tmp_path / "c", data=None, cache=empty).finishing.reason
    remember_data(cache, read_spec(study).data_fingerprint, images)
    assert ready(tmp_path / "d", StatisticsStep, data=None, taken=False).finishing.tried
    monkeypatch.setattr(finished_export, "LEAST_IMAGES", 100)
    assert ready(tmp_path / "e").finishing.reason == "6 validation images cannot show that anything helps, 100 could"
    assert ready(tmp_path / "f", mode="none").finishing.reason == "--finish none"


def test_no_time_leaves_the_trial_as_it_is(ready, tmp_path) -> None:
    found = ready(tmp_path / "best", StatisticsStep, LineStep, seconds=0.0)
    assert [one.why for one in found.finishing.tried] == ["the time was up", "the time was up"]
    assert found.manifest.stage == "exported"


def test_a_step_may_have_a_share_of_the_time() -> None:
    left: list[float] = []
    budget = Budget(100.0, lambda doing, seconds: left.append(seconds), begun=time.monotonic() - 60)
    budget.go_on("the next step")
    with pytest.raises(OutOfTime):
        budget.go_on("a soup", share=0.5)
    assert left == [pytest.approx(40, abs=5)]


def test_a_retraining_repeats_what_was_changed_after_the_trial(
    ready, study, images, cache, tmp_path, monkeypatch
) -> None:
    prefer(monkeypatch, StatisticsStep, LineStep, HeadStep, ViewsStep)
    monkeypatch.setattr(HeadStep, "refusal", lambda self, before: "")
    ready(tmp_path / "best", StatisticsStep, LineStep, HeadStep, ViewsStep)
    bundle = read_bundle(tmp_path / "best")
    models: list[tuple[bytes, bytes]] = []

    def repeated(given: Manifest, model: bytes, *rest: Any) -> bytes:
        models.append((model, weight_changes.repeat_changes(given, model, *rest)))
        return models[-1][1]

    monkeypatch.setattr(retrain_module, "repeat_changes", repeated)
    retrain_module.retrain(bundle, images, tmp_path / "final", RetrainOptions(cache=cache))
    final = read_bundle(tmp_path / "final")
    assert final.manifest.interpolated == bundle.manifest.interpolated
    assert final.manifest.finished == bundle.manifest.finished
    ((before, after),) = models
    assert final.model == after
    trained, changed = safetensors.torch.load(before), safetensors.torch.load(after)
    start = safetensors.torch.load_file(study.trials[0].user_attrs["config"]["weights"])["conv_stem.weight"]
    stem = "backbone.conv_stem.weight"
    torch.testing.assert_close(changed[stem], torch.lerp(start, trained[stem], 0.9))
    assert all(not torch.equal(trained[name], changed[name]) for name in ("head.1.weight", "backbone.bn1.running_mean"))
    assert (final.validation is not None, final.metrics["test"] is not None) == (True, True)
    np.testing.assert_array_equal(final.crossed, bundle.crossed, "predictions that the choice did not see")


def test_the_first_to_keep_their_weights_are_complete_and_then_the_best_pruned() -> None:
    study = optuna.create_study(direction="maximize")
    for value, state, curve in (
        (0.5, TrialState.COMPLETE, {1: 0.5}),
        (None, TrialState.PRUNED, {1: 0.6, 2: 0.4}),
        (None, TrialState.PRUNED, {1: 0.9}),
        (0.7, TrialState.COMPLETE, {1: 0.7}),
        (None, TrialState.PRUNED, {}),
        (None, TrialState.FAIL, {1: 0.99}),
    ):
        study.add_trial(create_trial(state=state, value=value, intermediate_values=curve))
    assert [one.number for one in kept_first(study.trials)] == [3, 0, 2, 1]


def test_data_are_remembered_by_their_fingerprint(tmp_path: Path) -> None:
    assert remembered_data(tmp_path, "abc") is None
    (tmp_path / "images").mkdir()
    remember_data(tmp_path, "abc", tmp_path / "images")
    assert remembered_data(tmp_path, "abc") == (tmp_path / "images").resolve()
    (tmp_path / "images").rmdir()
    assert remembered_data(tmp_path, "abc") is None


def test_a_damaged_record_is_one_line() -> None:
    with pytest.raises(BundleError, match=r"metrics\.json: finishing\.mode: "):
        Finishing.from_dict({"mode": 3}, "metrics.json")


def test_lines_say_whose_value_it_is(manifest: Manifest) -> None:
    from hpo.bundle.manifest import Adaptation, RobustnessFigures

    figures = RobustnessFigures(weight=0.5, clean=0.98, altered=0.84)
    given = manifest.model_copy(update={"robustness": figures})
    adapted = Adaptation(images=3, found=3, digest="d", sources=("x",), prior=16)
    changed = Finished(head=HeadChange(method="priors", strength=0.5))
    for update, whose in (
        ({}, "value of the trial 0.9100"),
        ({"adapted": adapted}, "value of the trial, before its statistics were adapted, 0.9100"),
        ({"finished": changed}, "value of this model 0.9100"),
        ({"interpolated": Interpolation(share=0.8, tried=(1.0, 0.8))}, "value of this model 0.9100"),
        ({"stage": "retrained"}, "value of the trial 0.9100"),
        ({"stage": "retrained", "finished": changed}, "value of the model before 0.9100"),
    ):
        assert robustness_lines(given.model_copy(update=update))[0].startswith(whose)


def test_the_table_fits_eighty_columns() -> None:
    steps = (
        TriedStep("soup", False, "within noise", "1, 2, 3 / 2, 4", 0.6577, 0.6970, 0.0219, 1, 39.2),
        TriedStep("WiSE-FT", False, "not tried: the trial started from random weights"),
        TriedStep("head", True, "", "balanced, penalty 0.001", 0.6577, 0.7116, 0.0148, 1, 3.1),
        TriedStep("views", True, "", "dihedral", 0.7116, 0.7248, 0.0037, 8, 12.0),
    )
    found = Finishing(
        "all", images=1710, altered=450, units=1702, metric="accuracy", weight=0.5, required=2.39, tried=steps,
        seconds=75.0, allowed=240.0,
    )  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    print_finishing(console, found)
    text = console.export_text()
    assert "finished: head, views (1 min 15 s of 4 min 00 s)" in text
    assert "1,710 validation images (1,702 independent) and 450 altered ones, weight 0.5" in text
    assert re.search(r"soup +1, 2, 3 / 2, 4 +0\.6970 +\+3\.93 ± 2\.19 +1 +39 +within noise", text)
    assert re.search(r"views +dihedral +0\.7248 +\+1\.32 ± 0\.37 +8 +12 +taken", text)
    quiet = Console(width=80, record=True, file=io.StringIO())
    print_finishing(quiet, Finishing("all", reason="6 validation images cannot show that anything helps, 100 could"))
    assert quiet.export_text() == "not finished: 6 validation images cannot show that anything helps, 100 could\n"


def test_a_pruned_trial_with_stored_weights_may_be_joined(study, store, trained, dataset) -> None:
    def pruned(curve: dict[int, float], *, stored: bool) -> int:
        known = study.trials[1].user_attrs
        study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=known, intermediate_values=curve))
        if stored:
            keep(store, len(study.trials) - 1, trained[1], dataset.val.labels)
        return len(study.trials) - 1

    pruned({1: 0.99}, stored=False)
    kept = pruned({1: 0.2, 2: 0.1}, stored=True)
    found = ensemble_candidates(study, store, 10)
    assert [one.trial.number for one in found.found] == [0, 1, 2, kept]
    assert not found.left_out
    assert [one.trial.number for one in ensemble_candidates(study, store, 3).found] == [0, 1, 2]


def test_the_command_takes_one_of_three_words() -> None:
    found = CliRunner().invoke(main, ["export-best", "--study", "x", "--out", "y", "--finish", "some"])
    assert found.exit_code == 2
    assert "'all', 'single', 'none'" in found.output
