"""The record that a trial keeps of itself: one type reads it, one file names its keys."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

import hpo
from hpo.search import trial_record
from hpo.search.trial_record import (
    FoldPlan,
    TrialProgress,
    TrialRecord,
    describe_ending,
    failure_attributes,
    final_attributes,
    initial_attributes,
    is_probe,
    probe_attributes,
)
from search_spaces import TrialConfig

HPO = Path(hpo.__file__).parent
FACTS = {"device": "cpu, 2 threads", "precision": "fp32", "parameters": 9, "trainable_parameters": 3, "mean": [0.5]}


def test_a_record_holds_every_attribute_that_is_written() -> None:
    metrics, curve = {"accuracy": 0.5, "altered_accuracy": 0.25}, {"2": 0.5}
    progress = TrialProgress(
        "accuracy", best_epoch=2, best_metrics=metrics, epochs=3, seconds=6.0, images_per_second=50.0,
        peak_memory=10, facts=FACTS, robustness=0.5, clean_curve=curve, altered_curve=curve, standard_error=0.03,
    )  # fmt: skip
    written = {
        **initial_attributes(TrialConfig(backbone="resnet18"), 7, "host:1", "d" * 64, FoldPlan(5, 12), 4),
        **final_attributes(progress, "the time was up"),
        **probe_attributes("resnet18"),
    }
    record = TrialRecord.of(optuna.trial.create_trial(value=0.5, user_attrs={**written, "other": 1}))
    assert vars(record) == written, "every field, and no other"


def test_an_attribute_that_was_not_recorded_has_its_default() -> None:
    record = TrialRecord.of(optuna.trial.create_trial(value=0.5))
    assert record == TrialRecord()
    assert (record.config, record.seed, record.seconds, record.reason) == ({}, None, None, None)


@pytest.mark.parametrize(("separator", "expected"), [(", ", "fail, no rung"), (": ", "fail: no rung")])
def test_an_ending_is_state_and_reason(separator: str, expected: str) -> None:
    failed = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=failure_attributes("no rung"))
    assert describe_ending(failed, separator) == expected
    unknown = optuna.trial.create_trial(state=TrialState.FAIL)
    assert describe_ending(unknown, separator) == f"fail{separator}no reason on record"
    assert describe_ending(None, separator) == "not trained"


def test_no_other_file_reads_or_writes_attributes_of_trials() -> None:
    users = {path.relative_to(HPO).as_posix() for path in HPO.rglob("*.py") if _uses_trial_attributes(path)}
    assert users == {Path(trial_record.__file__).relative_to(HPO).as_posix()}


def _uses_trial_attributes(path: Path) -> bool:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return any(_reads_attributes(node) or _writes_literal(node) for node in nodes)


def _reads_attributes(node: ast.AST) -> bool:
    """Return whether the node reads or sets user attributes other than those of a study."""
    if not isinstance(node, ast.Attribute) or node.attr not in ("user_attrs", "set_user_attr"):
        return False
    return not (isinstance(node.value, ast.Name) and node.value.id == "study")


def _writes_literal(node: ast.AST) -> bool:
    """Return whether the node calls `write_attributes` with a literal key."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "write_attributes":
        return False
    return any(isinstance(part, ast.Constant) for argument in node.args for part in ast.walk(argument))


def test_the_record_names_all_its_keys_in_the_description() -> None:
    described = trial_record.__doc__ or ""
    assert [field.name for field in fields(TrialRecord) if field.name not in described and field.name != "epochs"] == []


def test_a_probe_that_a_worker_of_an_earlier_version_took_for_a_trial_is_one() -> None:
    """Such a worker samples parameters for it, and trains it."""
    waiting = create_trial(state=TrialState.WAITING, user_attrs=probe_attributes("net"))
    trained = create_trial(
        value=0.9, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, user_attrs=probe_attributes("net")
    )
    assert [is_probe(one) for one in (waiting, trained)] == [True, False]
    assert [TrialRecord.of(one).probe for one in (waiting, trained)] == ["net", None]
