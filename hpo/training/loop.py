"""fit(): TrialConfig and data -> one EpochResult after another. Pruning is the consumer that stops asking."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping

import numpy as np
import torch

from hpo.errors import TrainingInterrupted, TrialEnded
from hpo.evaluation.metrics import scores
from hpo.training.guard import Chance, collapse
from hpo.training.loader import Loader
from hpo.training.memory import peak_memory, reset_peak
from hpo.training.randomness import derive, seeded
from hpo.training.result import EpochResult, Snapshot
from hpo.training.run import VERSION, Run, prepare
from hpo.training.runtime import FitData, Runtime
from hpo.training.tensor_bytes import pack
from hpo.training.validation import Logits
from search_spaces import TrialConfig

CHECK_EVERY = 25
"""Steps between two looks at the loss on a GPU, where each look waits for the device."""


Epochs = Generator[EpochResult, None, None]
"""Close it when leaving it early: threads that prepare batches end with it."""


def fit(config: TrialConfig, data: FitData, runtime: Runtime, resume: Snapshot | None = None) -> Epochs:
    """Train `config` on `data`, an epoch for each result, or go on after the epoch of `resume`.

    On a CPU with the same number of threads the same seed gives the same results, and a resumed run equals an
    uninterrupted one bit for bit; on a GPU cuDNN is deterministic, but other kernels (attention's backward) need not
    be. Global random generators are left alone between two results.

    Raises ModelError for a model that cannot be built, TrialEnded when the loss is no longer finite or the run has
    collapsed, and TrainingInterrupted when `runtime.should_stop()` is True between two steps.
    """
    run = prepare(config, data, runtime, resume)
    reset_peak(run.device)
    while run.epoch < config.epochs:
        yield _one_epoch(run)


def _one_epoch(run: Run) -> EpochResult:
    """Train, validate, look for collapse, and advance the run."""
    started = time.perf_counter()
    with seeded(derive(run.runtime.seed, "epoch", run.epoch), run.device):
        train_loss = _train(run)
        trained = time.perf_counter()
        logits = run.validation.logits(run.learner.evaluated) if run.validation else None
    metrics = _judge(run, logits)
    run.learner.epoch_scored(_score(run, metrics, train_loss))
    run.epoch += 1
    return EpochResult(
        epoch=run.epoch,
        train_loss=train_loss,
        metrics=metrics,
        logits=logits,
        learning_rate=run.learner.learning_rate,
        seconds=time.perf_counter() - started,
        images_per_second=len(run.data.train) / (trained - started),
        peak_memory=peak_memory(run.device),
        facts=run.facts,
        snapshot=_snapshot_of(run),
    )


def _score(run: Run, metrics: Mapping[str, float], train_loss: float) -> float:
    """What the schedule is told of the epoch; larger is better."""
    if metrics:
        return metrics[run.runtime.metric]
    return run.runtime.scores[run.epoch] if run.epoch < len(run.runtime.scores) else -train_loss


def _train(run: Run) -> float:
    """All steps of the epoch; gives the mean loss of an image."""
    run.learner.training()
    every = CHECK_EVERY if run.device.type == "cuda" else 1
    total = torch.zeros((), device=run.device)
    for step, (inputs, targets) in enumerate(_until_stopped(run.loader, run), start=1):
        total += run.learner.learn(inputs, targets) * len(targets)
        if step % every == 0:
            _refuse_infinite(float(total), run, step)
    _refuse_infinite(float(total), run, run.updates)
    return float(total) / len(run.data.train)


def _until_stopped(loader: Loader, run: Run) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of the epoch, as long as nobody asks to stop."""
    for batch in loader.epoch(run.epoch):
        if run.runtime.should_stop():
            raise TrainingInterrupted(f"stopped in epoch {run.epoch + 1}")
        yield batch


def _refuse_infinite(total: float, run: Run, step: int) -> None:
    if not math.isfinite(total):
        raise TrialEnded(
            f"the loss is not finite: {total} in epoch {run.epoch + 1}, by step {step} of {run.updates}, "
            f"at a learning rate of {run.learner.learning_rate:.3g}"
        )


def _judge(run: Run, logits: Logits | None) -> dict[str, float]:
    """The metrics of the epoch; TrialEnded for logits that are not finite and for collapse."""
    part = run.data.val
    if logits is None or part is None:
        return {}
    if not np.isfinite(logits).all():
        raise TrialEnded(f"the validation logits of epoch {run.epoch + 1} are not finite")
    metrics = scores(part.labels, logits)
    run.guard = run.guard.after(metrics["accuracy"], predicted=len(np.unique(logits.argmax(axis=1))))
    majority = float(np.bincount(part.labels).max() / len(part))
    reason = collapse(run.guard, Chance(majority, len(part)), metrics["accuracy"])
    if reason is not None:
        raise TrialEnded(f"{reason}, in epoch {run.epoch + 1}")
    return metrics


def _snapshot_of(run: Run) -> Callable[[], Snapshot]:
    """A function that gives the state of now, and refuses once the run has gone on."""
    epoch, updates = run.epoch, run.learner.updates

    def snapshot() -> Snapshot:
        if run.learner.updates != updates:
            raise RuntimeError(f"the snapshot of epoch {epoch} was asked for after training had gone on")
        return Snapshot(
            model=pack(run.learner.evaluated.state_dict()),
            resume=pack(run.learner.tensors()),
            state={
                "version": VERSION,
                "epoch": epoch,
                "format": run.number_format.to_dict(),
                "guard": run.guard.to_dict(),
                "learner": run.learner.to_dict(),
            },
        )

    return snapshot
