"""The line to beat in words, and when tuning is said to beat it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import FrozenTrial, create_trial

from hpo.cli.run import untried
from hpo.cli.status import plain_line
from hpo.evaluation.outcomes import Outcomes
from hpo.search.line_to_beat import LineReader, LineToBeat
from hpo.search.status import best_first
from hpo.search.trial_record import TrialProgress, outcome_attributes, probe_attributes
from storage import Limits
from tests.hpo.search.test_status import drawn, line, status

LINE = LineToBeat(0, "resnet18", 0.9312, 8.2)


def trial(number: int, right: int, *, probe: str | None = None, images: int = 400) -> FrozenTrial:
    """Return a complete trial that has the first `right` of 400 images of two classes right."""
    labels = np.arange(images) % 2
    logits = np.eye(2, dtype=np.float32)[np.where(np.arange(images) < right, labels, 1 - labels)]
    progress = TrialProgress("accuracy")
    progress.keep_outcomes(Outcomes.of(labels, logits))
    found = create_trial(
        value=right / images, user_attrs=probe_attributes(probe) | {"seconds": 8.2} if probe else {},
        system_attrs=outcome_attributes(progress), intermediate_values={} if probe else {1: right / images},
    )  # fmt: skip
    found.number = number
    return found


def read(*trials: FrozenTrial) -> LineToBeat | None:
    return LineReader("accuracy", 0.0)(best_first(trials), trials)


def test_without_a_complete_probe_there_is_no_line() -> None:
    assert read(trial(0, 380)) is None


def test_before_a_trial_is_trained_the_line_stands_alone() -> None:
    found = read(trial(0, 300, probe="poor"), trial(1, 372, probe="resnet18"))
    assert found == LineToBeat(1, "resnet18", 0.93, 8.2)
    assert found.lines("accuracy") == ["line to beat: frozen probe of resnet18 (trial 1): accuracy 0.9300 in 8 s"]
    assert (found.beaten, found.verdict) == (None, "")


def test_a_clear_lead_beats_the_probe() -> None:
    found = read(trial(0, 372, probe="resnet18"), trial(1, 350), trial(2, 392))
    assert found is not None
    # 20 of 400 images changed, all for the better: the variance is that of McNemar's test.
    assert found.error == pytest.approx(20**0.5 / 400, rel=1e-6)
    assert (found.tuned, found.compared, found.beaten) == (2, 2, True)
    assert found.verdict == "tuning (trial 2) beats the probe by 0.0500 ± 0.0112"


def test_a_lead_that_may_be_luck_does_not() -> None:
    found = read(trial(0, 372, probe="resnet18"), trial(1, 374))
    assert found is not None
    assert found.beaten is False
    assert found.verdict == (
        "tuning does not beat the probe by more than the noise (0.0050 ± 0.0035 with trial 1, the best of 1)"
    )


def test_the_best_of_many_needs_a_larger_lead() -> None:
    lead = LineToBeat(0, "resnet18", 0.9, 5.0, 1, 1, 0.02, 0.01, 0.02)
    assert lead.beaten
    assert not replace(lead, compared=20).beaten


def test_what_is_below_or_unknown_is_said() -> None:
    assert replace(LINE, tuned=3, gain=-0.01, error=0.002, chance=1.0, compared=4).verdict == (
        "tuning does not beat the probe: the best trained trial is 3, 0.0100 ± 0.0020 below it"
    )
    assert replace(LINE, tuned=3, gain=0.0, error=0.0, chance=0.5).verdict == (
        "tuning does not beat the probe: the best trained trial is 3"
    )
    unknown = replace(LINE, tuned=3, gain=0.01)
    assert unknown.beaten is None
    assert unknown.verdict == "tuning (trial 3) is 0.0100 above the probe; how much of it is noise is unknown"


def test_trials_on_other_images_are_not_paired() -> None:
    found = read(trial(0, 372, probe="resnet18"), trial(1, 99, images=100))
    assert found is not None
    assert (found.gain, found.error) == (pytest.approx(0.06), None)


def test_the_status_shows_a_probe_and_whether_it_is_beaten() -> None:
    first = line(0, probe="resnet18", params={}, curve=(), epoch=0, epochs=0, value=0.9312, seconds=8.2)
    shown = replace(
        status(first, line(1, value=0.95), best=line(1, value=0.95)),
        probe=replace(LINE, tuned=1, gain=0.0188, error=0.003, chance=1e-5, compared=1),
    )
    for width in (80, 120):
        text = drawn(shown, width)
        assert "line to beat: frozen probe of resnet18 (trial 0): accuracy 0.9312 in 8 s" in text
        assert "tuning (trial 1) beats the probe by 0.0188 ± 0.0030" in text
    assert "frozen probe of resnet18\n" in drawn(shown).replace(" \n", "\n")
    assert plain_line(shown, first).startswith(
        "trial 0 (frozen probe of resnet18) complete, best accuracy 0.9312, 8s; 2 of 20 trials finished"
    )
    document = json.loads(json.dumps(shown.to_dict(), allow_nan=False))
    assert document["probe"] == {
        "trial": 0, "backbone": "resnet18", "value": 0.9312, "seconds": 8.2, "compared": 1, "tuned": 1, "gain": 0.0188,
        "error": 0.003, "chance": 1e-5, "beaten": True,
    }  # fmt: skip
    assert "probe" not in status(line(1)).to_dict()


def test_a_probe_that_is_not_made_is_no_known_good_point() -> None:
    waiting = [line(0, "waiting", None, probe="resnet18", worker=None), line(1, "waiting", None, worker=None)]
    assert untried(status(*waiting, limits=Limits(trials=0))) == [
        "frozen probes not made: 1; --trials 0 is reached, --trials 2 has room for them",
        "known-good points not tried: 1; --trials 0 is reached, --trials 2 has room for them",
    ]
