"""What a study says of its best trial beside its value, from the predictions that its trials kept."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from hpo.cli.noise_text import noise_lines, trials_named
from hpo.evaluation.outcomes import Outcomes
from hpo.search.fold_progress import FoldedProgress
from hpo.search.noise import NoiseReader, StudyNoise
from hpo.search.status import StudyReader
from hpo.search.trial import TrialOutcome, run_trial
from hpo.search.trial_record import TrialProgress, TrialRecord, final_attributes, outcome_attributes, outcomes_of
from search_spaces import SearchSpace
from tests.hpo.search.conftest import Bench
from tests.hpo.search.test_status import line, status

IMAGES = 500
DEFAULT = {"learning_rate": 0.003}


def outcomes(right: float, seed: int, images: int = IMAGES) -> Outcomes:
    """Return outcomes of which the share `right` is right, mostly on the same images for all seeds."""
    hard = np.random.default_rng(0).random(images) + 0.3 * np.random.default_rng(seed).random(images)
    labels = np.arange(images) % 4
    predicted = np.where(hard.argsort().argsort() < right * images, labels, (labels + 1) % 4)
    return Outcomes.of(labels, np.eye(4, dtype=np.float32)[predicted])


def trial(
    number: int, right: float = 0.9, state: TrialState = TrialState.COMPLETE, *, given: Any = None, split: str = "s",
    images: int = IMAGES, kept: bool = True,
) -> FrozenTrial:  # fmt: skip
    """Return a trial that told what it predicted, as a worker writes it."""
    progress = TrialProgress("accuracy", best_metrics={"accuracy": right})
    if kept:
        progress.keep_outcomes(outcomes(right, number, images))
    found = optuna.trial.create_trial(
        state=state, value=right if state == TrialState.COMPLETE else None, params=DEFAULT if given else {},
        distributions={"learning_rate": FloatDistribution(0, 1)} if given else {},
        user_attrs={**final_attributes(progress), "split_digest": split},
        system_attrs=outcome_attributes(progress) | ({"fixed_params": given} if given else {}),
    )  # fmt: skip
    found.number = number
    return found


def read(*trials: FrozenTrial, default: Any = None) -> StudyNoise:
    best = max((one for one in trials if one.value is not None), key=lambda one: one.value or 0)
    return NoiseReader("accuracy", 0.0, default)(trials, best)


def test_a_trial_keeps_what_it_predicted_and_its_standard_error() -> None:
    found = trial(3, 0.9)
    (kept,) = outcomes_of(found)
    assert kept.value("accuracy") == pytest.approx(0.9)
    assert TrialRecord.of(found).error == pytest.approx((0.09 / IMAGES) ** 0.5)
    assert "hpo:outcomes" not in found.user_attrs, "a dashboard would show it"


def test_other_predictions_than_a_list_of_texts_are_none() -> None:
    for stored in (None, "x", 3, [3], ["x"], {"a": 1}):
        assert outcomes_of(optuna.trial.create_trial(value=0.5, system_attrs={"hpo:outcomes": stored})) == []


def test_the_trials_that_may_be_as_good_are_named() -> None:
    found = read(trial(0, 0.5), trial(1, 0.9), trial(2, 0.896), trial(3, 0.2), trial(4, 0.894))
    assert (found.trial, found.images, found.compared, found.alike) == (1, IMAGES, 4, (2, 4))
    assert found.error == pytest.approx((0.09 / IMAGES) ** 0.5)
    assert found.expected is not None
    assert 0.88 < found.expected < 0.9


def test_trials_on_other_images_and_those_of_earlier_versions_are_left_out() -> None:
    found = read(
        trial(0, 0.9), trial(1, 0.899, split="other"), trial(2, 0.899, images=IMAGES - 1), trial(3, 0.899, kept=False)
    )
    assert (found.compared, found.alike, found.expected, found.rivals) == (0, (), None, ())
    old = read(trial(0, 0.9, kept=False), trial(1, 0.5))
    assert (old.error, old.images, old.compared) == (None, 0, 0)


def test_the_pick_is_compared_with_the_first_trial_and_with_the_default() -> None:
    trials = [trial(0, 0.6), trial(1, 0.5, given=DEFAULT), trial(2, 0.895, given={"learning_rate": 0.1}), trial(3, 0.9)]
    found = read(*trials, default=DEFAULT)
    assert [(one.role, one.trial, one.pruned) for one in found.rivals] == [("first", 0, False), ("default", 1, False)]
    assert all(one.chance < 0.01 for one in found.rivals)
    close = read(trial(0, 0.896), trial(1, 0.5), trial(2, 0.9))
    assert 0.1 < close.rivals[0].chance < 0.6
    assert [one.role for one in read(trial(0, 0.9), trial(1, 0.5)).rivals] == [], "the pick is the first trial"


def test_a_first_trial_that_was_pruned_counts_with_its_best_epoch() -> None:
    found = read(trial(0, 0.7, TrialState.PRUNED), trial(1, 0.9), trial(2, 0.88))
    assert [(one.trial, one.value, one.pruned) for one in found.rivals] == [(0, pytest.approx(0.7), True)]
    assert found.compared == 1, "only complete trials are ranked"


def test_an_answer_is_kept_until_another_trial_finishes() -> None:
    trials = [trial(0, 0.9), trial(1, 0.8)]
    reader = NoiseReader("accuracy", 0.0)
    first = reader(trials, trials[0])
    assert reader(trials, trials[0]) is first
    assert reader([*trials, trial(2, 0.7)], trials[0]).compared == 2


def test_the_lines_say_it_in_words() -> None:
    best = line(1, value=0.9, standard_error=0.0134)
    trials = [trial(0, 0.896, given=DEFAULT), trial(1, 0.9), trial(2, 0.896), trial(3, 0.2)]
    noise = NoiseReader("accuracy", 0.0, DEFAULT)(trials, trials[1])
    alike, luck, rivals = (text.plain for text in noise_lines(replace(status(best, best=best), noise=noise)))
    assert alike == "2 others cannot be told from it on the same 500 images: trials 0, 2"
    assert luck.startswith("expected to hold of it: 0.89")
    assert luck.endswith(" (the best of 4 is partly luck)")
    assert re.fullmatch(r"chance that it is worse than trial 0 \(the first, the space's default\): \d+ %", rivals)
    assert noise_lines(status(best, best=best)) == []
    assert trials_named([4]) == "trial 4"
    assert trials_named(range(11)) == "trials 0, 1, 2, 3, 4, 5, 6, 7 and 3 more"


def test_over_folds_the_best_epoch_of_each_finished_fold_is_kept() -> None:
    progress = FoldedProgress("accuracy", folds=3, steps=2)
    for fold, values in enumerate(([0.8, 0.9], [0.7, 0.6], [0.5])):
        progress.fold = fold
        for epoch, value in enumerate(values, start=1):
            progress.add(_result(epoch, value, last=epoch == 2))
            if progress.improved:
                progress.keep_outcomes(outcomes(value, epoch))
    kept = [Outcomes.decode(text).value("accuracy") for text in progress.best_outcomes]
    assert kept == pytest.approx([0.9, 0.7]), "the third fold is not finished"
    again = FoldedProgress("accuracy")
    again.restore(progress.to_dict())
    assert again == progress
    assert not {"outcomes", "improved", "standard_error"} & progress.recorded().keys()


def test_folds_that_an_earlier_version_began_leave_no_wrong_predictions() -> None:
    progress = FoldedProgress("accuracy", folds=3, steps=2, fold=1, finished=1, curves=[[0.9]])
    progress.add(_result(1, 0.8))
    progress.keep_outcomes(outcomes(0.8, 0))
    assert progress.best_outcomes == []


def _result(epoch: int, value: float, *, last: bool = False) -> Any:
    from tests.hpo.search.test_robust_trials import result

    return result(epoch, value, 0.0, last=last)


@pytest.mark.postgres
def test_a_trained_trial_is_read_with_its_noise(bench: Bench, tiny_space: SearchSpace) -> None:
    for _ in range(2):
        assert run_trial(bench.context(tiny_space), bench.claim()) is TrialOutcome.COMPLETE
    shown = StudyReader(bench.db, bench.study)()
    assert shown.noise is not None
    assert shown.best is not None
    assert shown.noise.images == len(bench.dataset.val)
    assert shown.noise.compared == 1
    for one in bench.study.get_trials():
        (kept,) = outcomes_of(one)
        assert kept.value("accuracy") == pytest.approx(one.value)
        assert np.array_equal(kept.labels, np.sort(bench.dataset.val.labels))
    assert shown.best.error == shown.noise.error == shown.best.to_dict()["standard_error"]
    assert shown.to_dict()["noise"]["not_told_apart"] == list(shown.noise.alike)
