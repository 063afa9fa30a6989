"""The importance of parameters, and that few trials give none."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.report.study_data import FEWEST, FEWEST_BEST, importances

SPACE = {"rate": FloatDistribution(0, 1), "idle": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}


def trials(count, state=TrialState.COMPLETE):
    """Trials whose value is decided by `rate` alone."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    made = []
    for _ in range(count):
        params = study.ask(SPACE).params
        value = 1 - abs(params["rate"] - 0.3)
        done = {"value": value} if state == TrialState.COMPLETE else {}
        made.append(
            create_trial(
                params=params, distributions=SPACE, state=state, intermediate_values={1: value / 2, 2: value}, **done
            )
        )
    return made


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED])
def test_the_parameter_that_decides_comes_first(state):
    found = importances(trials(80, state))
    assert found is not None
    assert next(iter(found.shares)) == "rate"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert (found.best, found.trials) == (8, 80)


def test_few_trials_give_no_importance():
    assert importances(trials(FEWEST - 1)) is None
    found = importances(trials(FEWEST))
    assert found is not None
    assert found.best == FEWEST_BEST


def test_trials_without_a_value_do_not_count():
    idle = [create_trial(state=TrialState.PRUNED, params={"rate": 0.1}, distributions={"rate": SPACE["rate"]})] * 30
    assert importances([*trials(FEWEST - 1), *idle]) is None
    assert importances([*trials(FEWEST), *idle]).trials == FEWEST
