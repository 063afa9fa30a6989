"""The checkpoints of one trial: written after each epoch and at a stop, read by the next attempt."""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.search.trial_record import TrialProgress, TrialRecord
from hpo.training import SNAPSHOT_VERSION, EpochResult, FitData, Snapshot
from search_spaces import TrialConfig
from storage import Checkpoint, CheckpointError, CheckpointStore, StoreUnavailableError

log = logging.getLogger(__name__)


@dataclass
class TrialFiles:
    """Reads and writes the checkpoints of trial `number`, under the fencing token of its lease."""

    store: CheckpointStore
    number: int
    token: int
    reference: dict[str, Any] = field(default_factory=dict)
    """Names of the newest versions and their epoch, as stored with the lease."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """The `checkpoint_origin` of the trial, once its configuration is known; it is stored in every checkpoint."""

    def keep_best(self, result: EpochResult, weights: bytes, data: FitData) -> None:
        """Write the weights of the best epoch so far, with its predictions on the validation and the altered part."""
        files = {"model.safetensors": weights, **_predictions(data, result)}
        self._write("best", files, {"epoch": result.epoch, "metrics": dict(result.metrics)})

    def keep_latest(self, snapshot: Snapshot, progress: TrialProgress, position: float) -> None:
        """Write the state to resume from, `position` epochs into the run."""
        files = {"resume.safetensors": snapshot.resume, "state.json": json.dumps(dict(snapshot.state)).encode()}
        notes = {"position": position, "progress": progress.to_dict()}
        self._write("latest", files, notes)
        self.reference |= {"epoch": progress.epochs, "position": position}

    def latest(self) -> tuple[Snapshot, Mapping[str, Any]] | None:
        """Return the state that an earlier attempt left, and its notes; None where there is none to resume from."""
        if not self.store.has(self.number, "latest"):
            if "latest" in self.reference:
                log.warning(
                    "trial %d starts anew: its checkpoint after %.4g epochs is not in %s; is that the --artifacts of "
                    "all workers?",
                    self.number, self.reference.get("position", 0), self.store.place,
                )  # fmt: skip
                self.reference.clear()
            return None
        try:
            checkpoint = self.store.read(self.number, "latest")
        except StoreUnavailableError:
            raise
        except CheckpointError as error:
            # Raised from here, the error would end every worker that claims the trial; epochs can be repeated.
            log.warning("trial %d starts anew: %s", self.number, error)
            return None
        if (why := self._foreign(checkpoint)) is not None:
            log.warning("trial %d starts anew: %s in %s: %s", self.number, checkpoint.name, self.store.place, why)
            return None
        for damage in checkpoint.damaged:
            log.warning("trial %d goes on from an older checkpoint: %s", self.number, damage)
        self.reference["latest"] = checkpoint.name
        if checkpoint.damaged:  # write a second whole version, before another one is damaged
            self.store.discard_damaged(self.number, "latest")
            self._write("latest", checkpoint.files, checkpoint.info)
        state = json.loads(checkpoint.files["state.json"])
        if state["version"] != SNAPSHOT_VERSION:
            log.warning("trial %d starts anew: its checkpoint was written by another version of hpo", self.number)
            return None
        return Snapshot(checkpoint.files["resume.safetensors"], state), checkpoint.info

    def _foreign(self, checkpoint: Checkpoint) -> str | None:
        """Return why the checkpoint belongs to another trial; None where its notes do not say so."""
        return foreign_checkpoint(checkpoint.info, self.origin["config"], self.origin["seed"]) if self.origin else None

    def _write(self, kind: Any, files: Mapping[str, bytes], notes: Mapping[str, Any]) -> None:
        noted = {**notes, "trial": dict(self.origin)} if self.origin else notes
        self.reference[kind] = self.store.write(self.number, kind, files, noted, token=self.token)


def _predictions(data: FitData, result: EpochResult) -> dict[str, bytes]:
    """Return validation logits (N, classes) and labels (N,) as .npy: reports, calibration and ensembles read them.

    Of the altered part logits (M, classes), and the row (M,) of the validation part that each altered image shows.
    """
    files: dict[str, bytes] = {}
    if data.val is not None and result.logits is not None:
        files |= {"logits.npy": _npy(result.logits), "labels.npy": _npy(data.val.labels)}
    if data.altered is not None and result.altered_logits is not None:
        files |= {"altered_logits.npy": _npy(result.altered_logits), "altered_rows.npy": _npy(data.altered.rows)}
    return files


def _npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def checkpoint_origin(study: str, config: TrialConfig, seed: int) -> dict[str, Any]:
    """Return what a checkpoint notes of the trial that it belongs to, JSON-ready: see `foreign_checkpoint`."""
    return {"study": study, "config": config.to_dict(), "seed": seed}


def foreign_checkpoint(info: Mapping[str, Any], config: Mapping[str, Any], seed: int | None) -> str | None:
    """Return why a checkpoint with the notes `info` is not of a trial with this configuration and seed, or None.

    Two studies may have one id, as after `optuna.copy_study` or where a dump was restored: their trials of one number
    then share a folder. Checkpoints written before these notes existed cannot be distinguished.
    """
    origin = info.get("trial")
    if origin is None:
        return None
    theirs, ours = origin["config"], json.loads(json.dumps(dict(config)))
    for key in (theirs.keys() & ours.keys()) - {"weights"}:  # each machine has its own path to the weights file
        if theirs[key] != ours[key]:
            return f"it is of a trial of study {origin['study']!r} whose {key} is {theirs[key]!r}, not {ours[key]!r}"
    if seed is not None and origin["seed"] != seed:
        return f"it is of a trial of study {origin['study']!r} whose seed is {origin['seed']}, not {seed}"
    return None


def mismatched_best(info: Mapping[str, Any], record: TrialRecord, metric: str) -> str | None:
    """Return why a `best` checkpoint with the notes `info` does not match the record of its trial, or None.

    The configuration and the seed, the epoch and the value of `metric` are compared, each where both sides have it.
    """
    foreign = foreign_checkpoint(info, record.config, record.seed)
    if foreign is not None:
        return foreign
    epoch = info.get("epoch")
    if epoch is not None and record.best_epoch is not None and epoch != record.best_epoch:
        return f"it is of epoch {epoch}, but the trial's best epoch is {record.best_epoch}"
    value, wanted = info.get("metrics", {}).get(metric), record.best_metrics.get(metric)
    if value is not None and wanted is not None and not math.isclose(value, wanted, rel_tol=1e-9):
        return f"its {metric} is {value:.6g}, but the trial recorded {wanted:.6g}"
    return None
