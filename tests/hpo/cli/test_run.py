"""The main job as a user starts it: real processes, a real PostgreSQL, the real engine on tiny images."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import Result

from hpo.cli.run import _is_spent, untried, without_a_model
from hpo.search.status import StudyReader, StudyStatus, TrialStatus
from storage import Convergence, Database, Limits, has_spec, open_study, study_names
from tests.hpo.cli.conftest import TINY, Command

pytestmark = pytest.mark.postgres


@pytest.mark.slow(45)
def test_from_images_to_predictions(command: Command, cells: Path, tmp_path: Path) -> None:
    ran = command(
        "run", str(cells), "--study", "e2e", "--space", "quick", *TINY, "--trials", "4", "--workers", "2",
        "--threads", "1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "next: hpo export-best --study e2e" in ran.stdout
    status = command.status("e2e")
    assert status["trials"]["finished"] == status["trials"]["asked"] == 4, "the cap is exact with two workers"
    assert status["best"]["value"] > 0

    best, final, out = str(tmp_path / "best"), str(tmp_path / "final"), tmp_path / "predictions.json"
    steps = [
        ("export-best", "--study", "e2e", "--out", best),
        ("retrain", best, "--data", str(cells), "--out", final),
        ("evaluate", final, "--data", str(cells), "--split", "test", "--json"),
        ("predict", final, str(cells), "--out", str(out)),
    ]
    results = [command(*step) for step in steps]
    assert [r.returncode for r in results] == [0] * 4, [r.stderr for r in results]
    report = json.loads(results[2].stdout)
    assert {"accuracy", "n", "balanced_accuracy", "macro_f1", "interval", "classes", "confusion"} <= set(report)
    assert report["n"] == sum(map(sum, report["confusion"]))
    assert len(json.loads(out.read_text())) == 120


@pytest.mark.slow(30)
def test_ctrl_c_requeues_the_trial_and_the_same_command_resumes(command: Command, cells: Path) -> None:
    arguments = (
        "run", str(cells), "--study", "stopped", "--space", "quick", *TINY, "--trials", "6",
        "--workers", "2", "--threads", "1", "--pruner", "none",
    )  # fmt: skip
    with command.start(*arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:  # until the first trial is finished
            if line.startswith("trial "):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command goes on from here" in err
    stopped = command.status("stopped")["trials"]
    assert stopped["running"] == 0
    assert stopped["failed"] == 0
    assert 1 <= stopped["finished"] < 6

    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    after = command.status("stopped")["trials"]
    assert (after["asked"], after["complete"], after["running"], after["failed"]) == (6, 6, 0, 0)


FOLDED = tuple("epochs=3" if value == "epochs=2" else value for value in TINY)


@pytest.mark.slow
def test_a_search_over_folds_that_is_stopped_in_one_equals_one_that_is_not(
    command: Command, database: Database, cells: Path, here: Callable[..., Result]
) -> None:
    def arguments(study: str) -> list[str]:
        options = ("--folds", "3", "--trials", "1", "--workers", "1", "--threads", "1", "--pruner", "none")
        return ["run", str(cells), "--study", study, "--space", "quick", *FOLDED, *options, "--sampler", "random"]

    whole = command(*arguments("whole"))
    assert whole.returncode == 0, whole.stderr
    with command.start(*arguments("halted")) as process:
        while fold_of_the_first(database, "halted") < 2:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the search ended before its second fold, with code {process.wait(timeout=0.05)}")
        assert here("stop", "--study", "halted").exit_code == 0
        process.communicate(timeout=120)
    halted = command.status("halted")["trials"]
    assert (halted["running"], halted["failed"]) == (0, 0)
    assert halted["finished"] == 0
    again = command(*arguments("halted"))
    assert again.returncode == 0, again.stderr

    status = command.status("halted")
    assert {status["trials"][state] for state in ("asked", "finished", "complete")} == {1}
    assert status["redone"] < 1
    assert status["data"]["folds"] == 3
    one, other = (open_study(database, name).get_trials()[0] for name in ("whole", "halted"))
    assert (one.value, one.params) == (other.value, other.params)
    assert one.user_attrs["folds"] == other.user_attrs["folds"]
    assert one.intermediate_values == other.intermediate_values
    assert list(other.intermediate_values) == list(range(1, 10)), "no epoch is missing"


def fold_of_the_first(database: Database, study: str) -> int:
    """Return the fold, from 1, in which the first trial of a study trains; 0 before it has one."""
    if study not in study_names(database) or not has_spec(found := open_study(database, study)):
        return 0
    trials = StudyReader(database, found)().trials
    return trials[0].folds["fold"] if trials and trials[0].folds else 0


@pytest.mark.slow
def test_a_search_in_which_every_trial_diverges_says_what_to_change(command: Command, cells: Path) -> None:
    steep = ("batch_size=8", "learning_rate=100", "optimiser=sgd", "weight_decay=10")  # decay alone is a factor of -999
    settings = [
        f"--set={value}" for value in (*steep, "pretrained=false", "image_size=32", "epochs=2", "precision=fp32")
    ]
    ran = command(
        "run", str(cells), "--study", "steep", "--space", "quick", "--backbone", "mobilenetv2_035", *settings,
        "--trials", "2", "--workers", "1", "--threads", "1",
    )  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert "no trial gave a model: 2 diverged; trial 0: the " in ran.stderr
    assert "next: the learning rate is too high: make another study with a lower --set learning_rate" in ran.stderr
    assert "known-good points not tried: 2; --trials 2 is reached, --trials 4 has room for them" in ran.stderr
    assert "export-best" not in ran.stdout


def line(number: int, state: str, *violated: str, reason: str | None = None, worker: str | None = "w") -> TrialStatus:
    return TrialStatus(number, state, None, 0, 6, [], {}, 1.0, reason, worker, violated)


def status(*lines: TrialStatus) -> StudyStatus:
    return StudyStatus("s", "accuracy", "quick", Limits(trials=2), datetime(2026, 11, 1, tzinfo=UTC), lines, None)


@pytest.mark.parametrize(
    ("lines", "expected", "advice"),
    [
        ([line(0, "pruned", "memory", reason="no room")], "1 did not fit the memory; trial 0: no room", "batch_size"),
        ([line(0, "failed", reason="E"), line(1, "pruned")], "1 failed, 1 were pruned; trial 0: E", "hpo doctor DATA"),
        ([line(0, "pruned"), line(1, "pruned")], "2 were pruned\n", "--pruner none"),
        ([line(0, "failed"), line(1, "pruned", "diverged")], "1 diverged, 1 failed\n", "lower --set learning_rate"),
    ],
)
def test_the_advice_follows_what_ended_the_trials(lines: list[TrialStatus], expected: str, advice: str) -> None:
    text = without_a_model(status(*lines))
    assert f"no trial gave a model: {expected}" in f"{text}\n"
    assert advice in text.splitlines()[-1]


def test_what_the_budget_leaves_waiting_is_counted_by_kind() -> None:
    lines = [line(0, "complete"), line(1, "waiting"), line(2, "waiting", worker=None), line(3, "waiting", worker=None)]
    begun, points = untried(status(*lines))
    assert begun == ("interrupted trials that stay as they are: 1; --trials 2 is reached, --trials 4 has room for them")
    assert points.startswith("known-good points not tried: 2; ")
    assert untried(status(lines[0])) == []
    ended = replace(status(lines[0], *lines[2:]), limits=Limits(9, converged=Convergence(16, 0.0, 0.1)))
    assert untried(ended)[0].endswith(": 2; the study has converged, --no-until-converged goes on with them")


def test_an_interrupted_trial_is_left_to_train_where_the_study_has_converged() -> None:
    ended = Limits(9, converged=Convergence(16, 0.0, 0.1))
    enqueued = line(1, "waiting", worker=None)
    assert _is_spent(replace(status(line(0, "complete"), enqueued), limits=ended))
    assert not _is_spent(replace(status(line(0, "complete"), line(1, "waiting"), enqueued), limits=ended))
