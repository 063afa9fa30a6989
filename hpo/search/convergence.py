"""`--until-converged`: a study ends when its further trials are expected to gain less than its values are sure of.

optuna's terminator (Makarova et al. 2022, Automatic Termination for Hyperparameter Optimization) compares the same two
quantities, but its Gaussian process knows only the parameters that all trials have: none in a space whose learning
rates depend on the optimiser; and it is deprecated. Here the gain comes from the values themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import inf

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.evaluation.best_of_many import recent_gain
from hpo.search.noise import NoiseReader
from hpo.search.status import best_first
from hpo.search.trial_record import TrialRecord, best_probe, is_probe, original_of
from storage import Convergence, Database, Limits, end_converged, read_limits

log = logging.getLogger(__name__)

FEWEST_TRIALS = 16
"""Finished trials before anything is judged: TPE begins to model after 8, and has proposed as many by then."""

FEWEST_COMPLETE = 5
"""Complete ones among them."""


def convergence_of(trials: Sequence[FrozenTrial], most: int | None, noise: NoiseReader) -> Convergence | None:
    """Return why further trials would not pay, or None where they might.

    Further trials are those up to the limit `most`, or as many as there were, whichever is fewer. Their expected gain
    in the true value is the larger of two: what draws from the distribution of true values so far would bring, and what
    the second half of the trials brought. It has to be below the standard error of the best value. A waiting trial (a
    known-good point, an enqueued one) is tried first in any case. Frozen probes and replicates are left out; but what
    the best probe is worth above all of them is taken off the gain.
    """
    finished = _trained(trials)
    complete = best_first(finished)
    further = len(finished) if most is None else min(len(finished), most - len(trials))
    waits = any(trial.state == TrialState.WAITING for trial in trials)
    if len(finished) < FEWEST_TRIALS or len(complete) < FEWEST_COMPLETE or waits or further <= 0:
        return None
    error = TrialRecord.of(complete[0]).error
    gain = max(
        _drawn_gain(complete, noise, further * len(complete) / len(finished)),
        recent_gain([trial.value for trial in finished]),
    )
    gain = max(0.0, gain - _lead_of_probe(trials, complete[0]))
    return Convergence(len(finished), gain, error) if error is not None and gain < error else None


def _lead_of_probe(trials: Sequence[FrozenTrial], best: FrozenTrial) -> float:
    """Return how far the best frozen probe is above `best`; 0 where it is not, or there is none."""
    probe = best_probe(best_first(trials))
    return 0.0 if probe is None else max(0.0, (probe.value or 0.0) - (best.value or 0.0))


def _trained(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the finished trials that were trained, without replicates."""
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return [trial for trial in ended if not is_probe(trial) and original_of(trial) == trial.number]


def _drawn_gain(complete: Sequence[FrozenTrial], noise: NoiseReader, further: float) -> float:
    """Return what so many draws like the complete trials would gain on the first of these; inf if that is not known."""
    known = noise.true_values(complete, complete[0])
    if known is None:
        return inf
    values, numbers = known
    return values.expected_gain(numbers.index(complete[0].number), further)


class ConvergenceCheck:
    """Ends one study, for all its workers, once it has converged."""

    def __init__(self, db: Database, study: optuna.Study, metric: str, robustness: float) -> None:
        self._db, self._study = db, study
        self._noise = NoiseReader(metric, robustness)
        self._judged = 0

    def __call__(self) -> Limits:
        """Judge the finished trials, if the study is to end so and another has finished; return its limits."""
        limits = read_limits(self._study)
        if not limits.until_converged or limits.converged is not None:
            return limits
        trials = self._study.get_trials(deepcopy=False)
        finished = sum(trial.state.is_finished() for trial in trials)
        if finished == self._judged:
            return limits
        found = convergence_of(trials, limits.trials, self._noise)
        if found is None:
            self._judged = finished
            return limits
        ended = end_converged(self._db, self._study, found)  # where the database is away, judged again
        if ended.converged == found:
            log.info(
                "study %s has converged: further trials are expected to gain %.4f, the standard error is %.4f",
                self._study.study_name, found.gain, found.error,
            )  # fmt: skip
        return ended
