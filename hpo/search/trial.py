"""One trial: suggest, train, report, prune, keep the best checkpoint, tell.

This is the one consumer of `fit()` that knows optuna; pruning is this consumer stopping.
"""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from hpo.data import Dataset, Labels
from hpo.errors import DataError, TrainingInterrupted, TrialEnded
from hpo.search.ranking import best_first
from hpo.search.record import Progress, close_record, open_record, write_reason
from hpo.search.strategy import derive_seed
from hpo.training import EpochResult, FitData, Runtime, Snapshot, fit
from search_spaces import SearchSpace
from storage import CheckpointError, CheckpointStore, StorageError, reported_steps, requeue

log = logging.getLogger(__name__)


class Outcome(Enum):
    """How a trial ended for the worker that trained it."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Workshop:
    """What a worker holds while it works: the same for all its trials."""

    study: optuna.Study
    space: SearchSpace
    metric: str
    seed: int
    store: CheckpointStore
    keep: int
    """How many of the study's best trials keep their checkpoints."""
    dataset: Callable[[int], Dataset]
    """From an image size in pixels to the data set packed at that size."""
    device: str
    cache: Path
    should_stop: Callable[[], bool]
    """True once a signal came or the budget's time is over."""
    out_of_time: Callable[[], bool]
    """True once the budget's time is over."""


def run_trial(shop: Workshop, trial: optuna.Trial) -> Outcome:
    """Train one trial to its end and tell it; a failing trial is told as such and does not end the worker.

    Faults of database, disk and data set are raised: no trial is to blame for them, and none would fare better.
    """
    progress = Progress(shop.metric)
    try:
        return _train(shop, trial, progress)
    except (StorageError, DataError, OSError, KeyboardInterrupt):
        requeue(shop.study, trial)
        raise
    except TrainingInterrupted:
        return _interrupted(shop, trial, progress)
    except TrialEnded as ended:
        return _ended(shop, trial, progress, ended.reason)
    except UpdateFinishedTrialError:
        log.warning("trial %d was finished by somebody else", trial.number)
        return Outcome.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one broad except: whatever a configuration breaks, the next one may work
        return _failed(shop, trial, error)


def _train(shop: Workshop, trial: optuna.Trial, progress: Progress) -> Outcome:
    config = shop.space.suggest(trial)
    seed = derive_seed(shop.seed, "trial", trial.number)
    open_record(trial, config, seed)
    data = shop.dataset(config.image_size)
    runtime = Runtime(device=shop.device, seed=seed, cache=shop.cache, metric=shop.metric, should_stop=shop.should_stop)
    resume = _resume(shop, trial, progress)
    with closing(fit(config, FitData(data.train, data.val, len(data.classes)), runtime, resume)) as epochs:
        for result in epochs:
            _keep(shop, trial, progress, result, data.val.labels)
            value = result.metrics[shop.metric]
            trial.report(value, step=result.epoch)
            log.info(
                "trial %d: epoch %d/%d, %s %.4f (best %.4f), %.0f images/s",
                trial.number, result.epoch, config.epochs, shop.metric, value, progress.best_value,
                result.images_per_second,
            )  # fmt: skip
            if result.epoch < config.epochs and trial.should_prune():
                return _tell(shop, trial, progress, TrialState.PRUNED)
    return _tell(shop, trial, progress, TrialState.COMPLETE)


def _resume(shop: Workshop, trial: optuna.Trial, progress: Progress) -> Snapshot | None:
    """The state that an interrupted run of the same trial left, or None; `progress` is filled from it."""
    if not shop.store.has(trial.number, "latest"):
        return None
    try:
        checkpoint = shop.store.read(trial.number, "latest")
    except CheckpointError as error:
        # Raised from here it would meet every worker that takes the trial up, for ever; an epoch can be trained again.
        log.warning("trial %d starts anew: %s", trial.number, error)
        return None
    for damage in checkpoint.damaged:
        log.warning("trial %d goes on from an older checkpoint: %s", trial.number, damage)
    progress.restore(checkpoint.info["progress"])
    if progress.epochs not in reported_steps(shop.study, trial):  # it was interrupted before its last report
        trial.report(checkpoint.info["value"], step=progress.epochs)
    log.info("trial %d goes on after epoch %d", trial.number, progress.epochs)
    return Snapshot(b"", checkpoint.files["resume.safetensors"], json.loads(checkpoint.files["state.json"]))


def _keep(shop: Workshop, trial: optuna.Trial, progress: Progress, result: EpochResult, labels: Labels) -> None:
    """Write the checkpoints of one epoch: `best` when it is, `latest` to go on from."""
    better = progress.add(result)
    snapshot = result.snapshot()
    if better:
        files = {"model.safetensors": snapshot.model, **_predictions(labels, result)}
        info = {"epoch": result.epoch, "metrics": dict(result.metrics)}
        shop.store.write(trial.number, "best", files, info)
    files = {"resume.safetensors": snapshot.resume, "state.json": json.dumps(dict(snapshot.state)).encode()}
    info = {"epoch": result.epoch, "value": result.metrics[shop.metric], "progress": progress.to_dict()}
    shop.store.write(trial.number, "latest", files, info)


def _predictions(labels: Labels, result: EpochResult) -> dict[str, bytes]:
    """Validation logits and labels as .npy beside the weights: what reports, calibration and ensembles start from."""
    if result.logits is None:
        return {}
    return {"logits.npy": _npy(result.logits), "labels.npy": _npy(labels)}


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _tell(
    shop: Workshop,
    trial: optuna.Trial,
    progress: Progress,
    state: TrialState,
    reason: str | None = None,
) -> Outcome:
    """Record what training gave and tell the trial; a complete one is worth its best epoch, which is the one kept."""
    close_record(trial, progress, reason)
    complete = state == TrialState.COMPLETE
    shop.study.tell(trial, progress.best_value if complete else None, state)
    shop.store.discard(trial.number, "latest")  # nobody goes on from a finished trial
    keep_best(shop)
    word = "complete" if complete else "pruned"
    log.info("trial %d is %s%s", trial.number, word, f": {reason}" if reason else "")
    return Outcome.COMPLETE if complete else Outcome.PRUNED


def _interrupted(shop: Workshop, trial: optuna.Trial, progress: Progress) -> Outcome:
    """A signal puts the trial back, to be gone on with; at the end of the budget what it has reached counts."""
    if shop.out_of_time() and progress.epochs:
        reason = f"the time was up after epoch {progress.epochs}"
        return _tell(shop, trial, progress, TrialState.COMPLETE, reason)
    requeue(shop.study, trial)
    log.info("trial %d is put back after epoch %d", trial.number, progress.epochs)
    return Outcome.INTERRUPTED


def _ended(shop: Workshop, trial: optuna.Trial, progress: Progress, reason: str) -> Outcome:
    """A run that cannot win any more is told as pruned, not failed: TPE then learns to stay away from there."""
    return _tell(shop, trial, progress, TrialState.PRUNED, reason)


def _failed(shop: Workshop, trial: optuna.Trial, error: Exception) -> Outcome:
    reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
    log.warning("trial %d failed: %s", trial.number, reason)
    log.debug("%s", "".join(traceback.format_exception(error)))
    write_reason(trial, reason)
    shop.study.tell(trial, state=TrialState.FAIL)
    keep_best(shop)
    return Outcome.FAILED


def keep_best(shop: Workshop) -> None:
    """Free the checkpoints of finished trials but the best `keep` complete ones."""
    finished = [t for t in shop.study.get_trials(deepcopy=False) if t.state.is_finished()]
    kept = best_first(finished)[: shop.keep]
    shop.store.drop({t.number for t in finished} - {t.number for t in kept})
