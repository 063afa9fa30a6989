"""The training loop: `fit` yields one EpochResult after another. To prune a run, the caller stops iterating."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TypeVar

import numpy as np

from hpo.errors import TrialEnded
from hpo.evaluation.metrics import ALTERED, Logits, combined, scores
from hpo.interruption import TrainingInterrupted, until_stopped
from hpo.models.memory import infeasible_where_exhausted, peak_memory, reset_peak
from hpo.seeds import derive_seed, generator_states, restore_generators, seeded
from hpo.training.run import Run, prepare
from hpo.training.runtime import FitData, Runtime
from hpo.training.state import EpochResult, Position, Snapshot
from hpo.training.stopping import Chance, collapse_reason
from search_spaces import TrialConfig

CHECK_EVERY = 25
"""Steps between two checks of the loss on a GPU, where each check waits for the device."""

T = TypeVar("T")

Epochs = Generator[EpochResult, None, None]
"""Close the generator if it is left early: that ends the threads which prepare batches."""

Fitter = Callable[[TrialConfig, FitData, Runtime, Snapshot | None], Epochs]
"""A function with the arguments and results of `fit`."""


def fit(config: TrialConfig, data: FitData, runtime: Runtime, resume: Snapshot | None = None) -> Epochs:
    """Train `config` on `data` and yield a result after each epoch; or resume at the position of `resume`.

    `EpochResult.last` is True in the last result: early stopping may end the run before `config.epochs`, and a
    baseline, which has nothing to train, has one epoch.

    On a CPU with the same number of threads the same seed gives the same results, and a resumed run equals an
    uninterrupted one bit for bit; on a GPU cuDNN is deterministic, but other kernels (attention's backward) may not
    be. Global random generators are unchanged between two results.

    A step that does not fit into the memory is repeated in smaller pieces (see `Gradients`).

    Raises ModelError for a model that cannot be built, TrialEnded if the loss is no longer finite or the run has
    collapsed, InfeasibleError if one image at a time does not fit into the memory, and TrainingInterrupted if
    `runtime.should_stop()` is True between two steps or two batches of other work. Its `snapshot` is the state at that
    moment, or None if no step has been done since the last result or `resume`. Threads that prepare batches have ended
    by then.
    """
    with infeasible_where_exhausted(f"{config.backbone} at {config.image_size} px on {runtime.device}"):
        run = prepare(config, data, runtime, resume)
        reset_peak(run.device)
        while not run.over:
            yield _one_epoch(run)


def fit_at_once(config: TrialConfig, data: FitData, runtime: Runtime, solve: Callable[[Run], float]) -> Epochs:
    """Yield the one result of a run whose weights `solve` sets in place of optimiser steps.

    `solve` gets the run before its first step, changes the weights of its classifier, and returns the training loss. It
    may add facts. The rest, and what is raised, is as in `fit`; an interruption has no snapshot.
    """
    with infeasible_where_exhausted(f"{config.backbone} at {config.image_size} px on {runtime.device}"):
        run = prepare(config, data, runtime, None)
        reset_peak(run.device)
        yield _one_epoch(run, solve)


def _one_epoch(run: Run, train: Callable[[Run], float] | None = None) -> EpochResult:
    """Train, by steps or by `train`, validate, check for collapse, and advance the run."""
    position = run.position
    run.learner.begin_epoch(position.epoch)
    with seeded(derive_seed(run.runtime.seed, "epoch", position.epoch), run.device), _resumable(run):
        with position.timed("training"):
            train_loss = (train or _train)(run)
        with position.timed("validation"):
            logits = run.validation.logits(run.learner.evaluated) if run.validation else None
            altered = run.altered.logits(run.learner.evaluated) if run.altered else None
            metrics = _compute_metrics(run, logits) | _altered_metrics(run, altered)
    run.record_score(_score(run, metrics, train_loss))
    return EpochResult(
        epoch=run.position.epoch,
        last=run.over,
        train_loss=train_loss,
        metrics=metrics,
        logits=logits,
        learning_rate=position.learning_rate,
        seconds=sum(position.seconds.values()),
        images_per_second=run.images / position.seconds["training"],
        peak_memory=peak_memory(run.device),
        facts={**run.facts, "micro_batch": run.learner.micro_batch},
        weights=_valid_until_next_step(run, run.weights),
        snapshot=_valid_until_next_step(run, run.snapshot),
        altered_logits=altered,
    )


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """Continue the epoch at the run's position; attach the current state to an interruption inside the block."""
    position, steps = run.position, run.position.steps
    restore_generators(position.generators, run.device)
    try:
        yield
    except TrainingInterrupted:
        position.generators = generator_states(run.device)
        where = f"stopped in epoch {position.epoch + 1}, after {position.steps} of {run.updates} steps"
        raise TrainingInterrupted(where, run.snapshot() if position.steps > steps else None) from None


def _score(run: Run, metrics: Mapping[str, float], train_loss: float) -> float:
    """Return the epoch's score for the schedule and early stopping; larger is better."""
    if metrics:
        return combined(metrics, run.runtime.metric, run.runtime.robustness)
    epoch, known = run.position.epoch, run.runtime.scores
    return known[epoch] if epoch < len(known) else -train_loss


def _train(run: Run) -> float:
    """Take the remaining steps of the epoch; return the mean loss of an image over all steps of the epoch."""
    position = run.position
    if position.steps < run.updates:
        _take_steps(run, position)
        position.learning_rate = run.learner.learning_rate
    _check_loss_is_finite(run)
    return float(position.loss) / run.images


def _take_steps(run: Run, position: Position) -> None:
    run.learner.enter_training_mode()
    every = CHECK_EVERY if run.device.type == "cuda" else 1
    with closing(run.loader.epoch(position.epoch, position.steps)) as batches:
        for inputs, targets in until_stopped(batches, run.runtime.should_stop):
            position.loss += run.learner.learn(inputs, targets) * len(targets)
            position.steps += 1
            if position.steps % every == 0:
                _check_loss_is_finite(run)
            run.runtime.on_step(position.epoch + position.steps / run.updates)


def _check_loss_is_finite(run: Run) -> None:
    position, total = run.position, float(run.position.loss)
    if not math.isfinite(total):
        raise TrialEnded(
            f"the loss is not finite: {total} in epoch {position.epoch + 1}, by step {position.steps} "
            f"of {run.updates}, at a learning rate of {run.learner.learning_rate:.3g}"
        )


def _compute_metrics(run: Run, logits: Logits | None) -> dict[str, float]:
    """Return the metrics of the epoch; raise TrialEnded if the logits are not finite or the run has collapsed."""
    part, epoch = run.data.val, run.position.epoch + 1
    if logits is None or part is None:
        return {}
    metrics = scores(part.labels, _finite(logits, "validation", epoch))
    run.guard = run.guard.after(metrics["accuracy"], predicted=len(np.unique(logits.argmax(axis=1))))
    majority = float(np.bincount(part.labels).max() / len(part))
    reason = collapse_reason(run.guard, Chance(majority, len(part)), metrics["accuracy"])
    if reason is not None:
        raise TrialEnded(f"{reason}, in epoch {epoch}")
    return metrics


def _altered_metrics(run: Run, logits: Logits | None) -> dict[str, float]:
    """Return the metrics on the altered part, each under its key; raise TrialEnded if the logits are not finite."""
    part = run.data.altered
    if logits is None or part is None:
        return {}
    found = scores(part.labels, _finite(logits, "altered", run.position.epoch + 1))
    return {f"{ALTERED}{name}": value for name, value in found.items()}


def _finite(logits: Logits, kind: str, epoch: int) -> Logits:
    if not np.isfinite(logits).all():
        raise TrialEnded(f"the {kind} logits of epoch {epoch} are not finite")
    return logits


def _valid_until_next_step(run: Run, get: Callable[[], T]) -> Callable[[], T]:
    """Wrap `get` so that it raises RuntimeError once training has continued."""
    epoch, updates = run.position.epoch, run.learner.updates

    def checked() -> T:
        if run.learner.updates != updates:
            raise RuntimeError(f"the state of epoch {epoch} was requested after training had continued")
        return get()

    return checked
