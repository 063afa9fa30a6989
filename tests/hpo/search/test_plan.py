"""From options to a plan: contradictions are refused, nothing is dropped in silence."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from hpo.errors import HpoError, UsageError
from hpo.search.clock import Clock
from hpo.search.device import devices, resolve_device
from hpo.search.plan import possible, resolve_space, set_budget
from hpo.search.worker import failures_at_the_end
from search_spaces import SearchSpace
from storage import read_limits
from tests.hpo.search.conftest import Bench


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file that names its architecture; its content is not looked at here."""
    (tmp_path / "w.safetensors").write_bytes(b"")
    (tmp_path / "w.json").write_text(json.dumps({"architecture": "mobilenetv2_035"}))
    return tmp_path / "w.safetensors"


def test_weights_choose_the_backbone_where_nothing_else_does(weights: Path) -> None:
    space = resolve_space("quick", weights=weights)
    assert space.fixed["backbone"] == "mobilenetv2_035"
    assert space.fixed["weights"] == str(weights.resolve())
    assert resolve_space("quick", weights=weights, backbone="resnet18").fixed["backbone"] == "resnet18"


@pytest.mark.parametrize(
    ("backbone", "fixed", "told"),
    [
        ("resnet18", ["backbone=resnet34"], "--backbone resnet18 contradicts --set backbone=resnet34"),
        (None, ["epochs=3", "epochs=4"], "--set 4 contradicts --set epochs=3"),
        (None, ["epochs"], "must be KEY=VALUE"),
        (None, ["=3"], "must be KEY=VALUE"),
    ],
)
def test_contradictions_are_refused(backbone: str | None, fixed: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        resolve_space("quick", backbone=backbone, fixed=fixed)


@pytest.mark.parametrize("fixed", ["pretrained=false", "weights=other.safetensors"])
def test_weights_do_not_give_way_in_silence(weights: Path, fixed: str) -> None:
    with pytest.raises(UsageError, match=f"contradicts --set {fixed.split('=', maxsplit=1)[0]}"):
        resolve_space("quick", weights=weights, fixed=[fixed])


def test_every_value_of_a_discrete_field_is_possible() -> None:
    space = SearchSpace.from_dict(
        {
            "name": "sizes",
            "dimensions": {
                "backbone": {"type": "choice", "choices": ["resnet18", "resnet34"]},
                "image_size": {"type": "int", "low": 64, "high": 128, "step": 32, "when": {"backbone": ["resnet18"]}},
            },
            "fixed": {"epochs": 3},
            "points": [],
        }
    )
    assert possible(space, "epochs") == [3]
    assert possible(space, "backbone") == ["resnet18", "resnet34"]
    assert possible(space, "image_size") == [64, 96, 128, 224], "with resnet34 it is the default"
    assert possible(space, "batch_size") == [64]


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "auto:1", "cuda:99", "cpu:0"])
def test_a_device_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="device is"):
        resolve_device(name)


def test_a_named_device_is_one_device() -> None:
    assert resolve_device("cpu") == "cpu"
    assert devices("cpu") == devices("cuda:0") == 1


@pytest.mark.postgres
def test_a_budget_stays_until_it_is_changed_and_a_passed_deadline_is_dropped(bench: Bench) -> None:
    limits = set_budget(bench.db, bench.study, 7, timedelta(hours=1))
    assert set_budget(bench.db, bench.study, None, None) == limits
    assert Clock(bench.db, bench.study).is_up() is False
    set_budget(bench.db, bench.study, None, timedelta(0))
    clock = Clock(bench.db, bench.study)
    assert clock.is_up()
    assert set_budget(bench.db, bench.study, None, None).deadline is None
    clock.read()
    assert not clock.is_up()
    assert read_limits(bench.study).trials == 7


@pytest.mark.postgres
def test_failures_at_the_end_of_a_study_are_not_forgiven_by_a_restart(bench: Bench) -> None:
    from optuna.trial import TrialState

    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL):
        trial = bench.study.ask()
        trial.report(0.5, step=1)
        bench.study.tell(trial, state=state)
    assert failures_at_the_end(bench.study) == 2


@pytest.mark.postgres
def test_trial_after_trial_failing_ends_the_worker(
    bench: Bench, tiny_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.trial import TrialState

    import hpo.search.worker as worker_module
    from hpo.search.trial import Outcome
    from storage import Claim

    def fail(shop: object, claim: Claim) -> Outcome:
        bench.db.storage.set_trial_state_values(claim.lease.trial_id, TrialState.FAIL)
        return Outcome.FAILED

    monkeypatch.setattr(worker_module, "run_trial", fail)
    with pytest.raises(HpoError, match="5 trials failed one after another"):
        worker_module._take_trials(bench.shop(tiny_space), Clock(bench.db, bench.study))
    assert len([t for t in bench.study.get_trials() if t.state == TrialState.FAIL]) == 5
