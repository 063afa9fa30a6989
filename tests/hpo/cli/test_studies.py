"""Listing studies and trials, enqueueing values that are checked, deleting."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from click.testing import Result

from search_spaces import SearchSpace
from storage import (
    Claim,
    Convergence,
    Database,
    Limits,
    StudySpec,
    Worker,
    claim_trial,
    create_study,
    expire_leases,
    open_store,
    open_study,
    read_spec,
    write_limits,
)

Here = Callable[..., Result]


@pytest.fixture
def rich_study(database: Database) -> optuna.Study:
    """Return a study `rich` with a fixed field, a range, a choice and a dimension that exists for one choice only."""
    database.initialise()
    space = SearchSpace.from_dict({
        "name": "rich", "summary": "", "seed": None, "fixed": {"epochs": 3}, "points": [],
        "dimensions": {
            "optimiser": [{"type": "choice", "choices": ["adamw", "sgd"]}],
            "learning_rate": [{"type": "float", "low": 1e-3, "high": 1e-2, "log": True}],
            "weight_decay": [{"type": "float", "low": 0, "high": 0.1, "when": {"optimiser": ["adamw"]}}],
        },
    })  # fmt: skip
    spec = StudySpec(
        space=space.to_dict(), space_fingerprint=space.fingerprint, data={}, data_fingerprint="0", metric="accuracy",
        seed=0, weights_digest=None, sampler="random", pruner="none",
    )  # fmt: skip
    return create_study(database, "rich", spec)


def finish(study: optuna.Study, value: float, reason: str | None = None) -> None:
    trial = study.ask()
    trial.suggest_float("learning_rate", 1e-3, 1e-2)
    trial.report(value, 1)
    if reason:
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)


def test_studies_are_listed_with_their_trials(here: Here, database: Database, bare_study: optuna.Study) -> None:
    finish(bare_study, 0.5)
    optuna.create_study(storage=database.storage, study_name="another's; rm -rf ~")
    found = json.loads(here("studies", "--json").stdout)
    assert [one["study"] for one in found] == ["bare", "another's; rm -rf ~"]
    assert found[0]["trials"] == {"complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    table = here("studies").stdout
    assert "bare" in table
    assert "rm -rf ~" in table


def test_an_empty_database_has_no_study_to_list(here: Here, database: Database) -> None:
    database.initialise()
    assert json.loads(here("studies", "--json").stdout) == []
    assert "there is no study yet" in here("studies").stdout


def test_every_trial_is_listed(here: Here, bare_study: optuna.Study) -> None:
    for number in range(15):
        finish(bare_study, number / 20)
    finish(bare_study, float("nan"), reason="=HYPERLINK(1), lags\nfar")
    rows = json.loads(here("trials", "bare", "--json").stdout, parse_constant=pytest.fail)
    assert [row["number"] for row in rows] == list(range(16))
    assert (rows[3]["state"], rows[3]["value"]) == ("complete", 0.15)
    assert 1e-3 <= rows[3]["params"]["learning_rate"] <= 1e-2
    assert rows[3]["start"] <= rows[3]["end"]
    assert rows[3]["end"].endswith("+00:00")
    table = list(csv.DictReader(io.StringIO(here("trials", "bare", "--csv").stdout)))
    assert [row["number"] for row in table] == [str(number) for number in range(16)]
    assert float(table[3]["param_learning_rate"]) == rows[3]["params"]["learning_rate"]
    assert table[15]["reason"] == "'=HYPERLINK(1), lags\nfar"
    assert here("trials", "bare").stdout.count("complete") == 15
    assert here("trials", "bare", "--csv", "--json").exit_code == 2


def test_the_value_of_a_trial_over_folds_has_its_noise_beside_it(here: Here, bare_study: optuna.Study) -> None:
    trial = bare_study.ask()
    trial.suggest_float("learning_rate", 1e-3, 1e-2)
    trial.set_user_attr("folds", {"count": 2, "steps": 1, "values": [0.5, 0.7], "standard_error": 0.1})
    for step, value in enumerate((0.5, 0.6), start=1):
        trial.report(value, step)
    bare_study.tell(trial, 0.6)
    assert "0.60 ± 0.10  fold 2/2, 1" in here("trials", "bare").stdout
    (row,) = csv.DictReader(io.StringIO(here("trials", "bare", "--csv").stdout))
    found = [row[name] for name in ("value", "fold", "of", "values", "standard_error")]
    assert found == ["0.6", "2", "2", "0.5 0.7", "0.1"]
    (document,) = json.loads(here("trials", "bare", "--json").stdout)
    assert document["folds"]["values"] == [0.5, 0.7]


def test_values_are_enqueued_and_what_is_left_out_is_sampled(here: Here, rich_study: optuna.Study) -> None:
    result = here("enqueue", "--study", "rich", "optimiser=adamw", "weight_decay=0.05", "learning_rate=2e-3")
    assert result.exit_code == 0, result.stderr
    here("enqueue", "--study", "rich", "learning_rate=5e-3")
    waiting = [trial.system_attrs["fixed_params"] for trial in rich_study.get_trials()]
    assert waiting == [{"optimiser": "adamw", "learning_rate": 2e-3, "weight_decay": 0.05}, {"learning_rate": 5e-3}]
    write_limits(rich_study, Limits(9, until_converged=True, converged=Convergence(16, 0.0, 0.1)))
    assert "--no-until-converged has it tried" in here("enqueue", "--study", "rich", "learning_rate=6e-3").stderr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["learning_rat=1"], "learning_rat"),
        (["epochs=3"], "epochs is fixed to 3 in this study; leave it out"),
        (["epochs=8"], "epochs is fixed to 3"),
        (["learning_rate=1"], "learning_rate is 1.0, but must be in"),
        (["learning_rate=nan"], "learning_rate is nan, but must be finite"),
        (["learning_rate=inf"], "learning_rate is inf, but must be finite"),
        (["learning_rate=fast"], "learning_rate"),
        (["optimiser=lion"], "optimiser is 'lion', but must be in"),
        (["weight_decay=0.05"], "weight_decay exists only when optimiser is adamw; give optimiser too"),
        (["weight_decay=5"], "weight_decay is 5.0, but must be in 0 to 0.1 when optimiser is adamw"),
        (["optimiser=sgd", "weight_decay=0.05"], "weight_decay exists only when optimiser is adamw; leave it out"),
        (["dropout=0.1"], "dropout: this space neither searches nor fixes it; leave it out"),
        (["learning_rate"], "must be KEY=VALUE"),
        (["learning_rate=2e-3", "learning_rate=3e-3"], "contradicts"),
    ],
)
def test_values_outside_the_space_are_not_enqueued(
    refused: Callable[[list[str]], str], rich_study: optuna.Study, given: list[str], expected: str
) -> None:
    assert expected in refused(["enqueue", "--study", "rich", *given])
    assert not rich_study.get_trials()


def test_a_study_is_deleted_with_its_files(
    here: Here, database: Database, bare_study: optuna.Study, tmp_path: Path
) -> None:
    identity = read_spec(bare_study).id
    open_store(tmp_path / "artifacts", identity).write(0, "best", {"model": b"x"}, {})
    (tmp_path / "logs" / identity).mkdir(parents=True)
    asked = here("delete", "bare")
    assert (asked.exit_code, "give --yes" in asked.stderr) == (2, True)
    assert open_study(database, "bare")
    result = here("delete", "bare", "--yes")
    assert result.exit_code == 0, result.stderr
    assert json.loads(here("studies", "--json").stdout) == []
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert not (tmp_path / "logs" / identity).exists()
    assert here("delete", "bare", "--yes").exit_code == 2


def test_the_checkpoints_that_a_copy_shares_stay(
    here: Here, database: Database, bare_study: optuna.Study, tmp_path: Path
) -> None:
    open_store(tmp_path / "artifacts", read_spec(bare_study).id).write(0, "best", {"model": b"x"}, {})
    storage = database.storage
    optuna.copy_study(from_study_name="bare", to_study_name="copy", from_storage=storage, to_storage=storage)
    result = here("delete", "bare", "--yes")
    assert (result.exit_code, "copy" in result.stderr) == (0, True)
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_checkpoints_under_another_place_are_reported(
    here: Here, database: Database, bare_study: optuna.Study, tmp_path: Path
) -> None:
    """`hpo gc` refuses a missing folder in the same words."""
    claim = claim_trial(database, bare_study, Worker(host="node-7", pid=1))
    assert isinstance(claim, Claim)
    expire_leases(database, bare_study, Worker(host="node-7", pid=1, place=""))
    for words in (("delete", "bare", "--yes"), ("gc", "--study", "bare")):
        result = here(*words, "--artifacts", str(tmp_path / "elsewhere"))
        assert (result.exit_code, "no such folder; give the --artifacts of the workers" in result.stderr) == (2, True)
    (tmp_path / "elsewhere").mkdir()
    result = here("delete", "bare", "--yes", "--artifacts", str(tmp_path / "elsewhere"))
    assert (result.exit_code, "checkpoints under another --artifacts stay" in result.stderr) == (0, True)


def test_a_study_with_a_running_trial_is_not_deleted(here: Here, database: Database, bare_study: optuna.Study) -> None:
    assert isinstance(claim_trial(database, bare_study, Worker(host="node-7", pid=1)), Claim)
    result = here("delete", "bare", "--yes")
    assert result.exit_code == 2
    assert "node-7:1 trains trial 0 of study bare; let it leave first: `hpo stop --study bare`" in result.stderr
    assert open_study(database, "bare")


def test_delete_ignores_the_study_of_the_environment(
    here: Here, bare_study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_STUDY", "bare")
    Path("hpo.toml").write_text('study = "bare"')
    assert here("delete", "--yes").exit_code == 2
