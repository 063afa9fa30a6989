"""Export a trial of a study as a bundle: its best checkpoint, with all that is known about it."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
from optuna.trial import TrialState
from safetensors import SafetensorError

from hpo.bundle.bundle import MODEL, Extras, write_bundle
from hpo.bundle.calibrate import augmented_validation, calibration_of
from hpo.bundle.manifest import RESIZE_RULE, Manifest, Preprocessing, Weights, shared
from hpo.bundle.model import refuse_not_finite
from hpo.bundle.validation import AlteredPredictions, Validation
from hpo.data import ImageDigests
from hpo.delivery.original_weights import remember_weights
from hpo.errors import BundleError
from hpo.evaluation.intervals import clustered
from hpo.evaluation.metrics import Report, report, scores
from hpo.search.checkpointing import mismatched_best
from hpo.search.noise import NoiseReader
from hpo.search.plan import origin_of
from hpo.search.ranking import RankedConfiguration, cheapest, error_on, rank, tied_with_best
from hpo.search.trial_record import TrialRecord
from search_spaces import TrialConfig
from storage import Checkpoint, CheckpointError, CheckpointStore, StudySpec, read_spec

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


log = logging.getLogger(__name__)


def remember_weights_of(trial: FrozenTrial, cache: Path) -> None:
    """Store the path of the weights file that a trial started from in `cache`, if it had one."""
    record = TrialRecord.of(trial)
    digest, place = _weights(record.facts.get("weights")).digest, record.config.get("weights")
    if digest is not None and place is not None:
        remember_weights(cache, place, digest)


def choose_trial(study: Study, number: int | Literal["cheap"] | None = None) -> FrozenTrial:
    """Return the complete trial `number`, or that of the best configuration; BundleError where it is missing.

    "cheap" is the cheapest of those that cannot be told from the best.
    """
    name = study.study_name
    trials = study.get_trials(deepcopy=False)
    if number is None or number == "cheap":
        ranked = rank(trials)
        if not ranked:
            raise BundleError(
                f"study {name!r} has no complete trial among {len(trials)}; `hpo run` with more --trials trains others"
            )
        return (ranked[0] if number is None else cheapest(tied(study, ranked))).trial
    found = next((t for t in trials if t.number == number), None)
    if found is None:
        raise BundleError(f"study {name!r} has no trial {number}, its trials end at {len(trials) - 1}; name one it has")
    if found.state != TrialState.COMPLETE:
        state = found.state.name.lower()
        raise BundleError(f"trial {number} of study {name!r} is {state}, but must be complete; name another one")
    return found


def tied(study: Study, ranked: Sequence[RankedConfiguration]) -> list[RankedConfiguration]:
    """Return the configurations that cannot be told from the best of `ranked`, which has at least one.

    Their models are compared on the same images (`noise.StudyNoise.alike`), and configurations with several seeds by
    their means too. Of trials that kept no predictions the means and their errors decide alone.
    """
    spec, best = read_spec(study), ranked[0]
    noise = NoiseReader(spec.metric, spec.robustness)(study.get_trials(deepcopy=False), best.trial)
    by_means = tied_with_best(ranked, error_on(int(spec.data.get("counts", {}).get("val", 0))))
    if not noise.images:
        return by_means
    alike = {best.trial.number, *noise.alike}
    candidates = ranked if best.noise is None else by_means
    return [one for one in candidates if one.trial.number in alike]


def export_trial(
    study: Study,
    trial: FrozenTrial,
    store: CheckpointStore,
    out: Path,
    *,
    force: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> tuple[Manifest, Report]:
    """Write one trial's best checkpoint as a bundle to `out`; return its manifest and the report on validation.

    Raises BundleError where its checkpoint is gone, or `out` may not be written.

    `notes` are further keys of metrics.json.
    """
    spec = read_spec(study)
    checkpoint = read_best(store, study, trial)
    manifest = trial_manifest(study.study_name, spec, trial, compared=compared_trials(study))
    _refuse_damaged_weights(checkpoint)
    validation, altered = validation_of(checkpoint), altered_of(checkpoint)
    if not augmented_validation(manifest.config):
        manifest = manifest.model_copy(update={"calibration": calibration_of(validation)})
    found = report(*validation, manifest.classes)
    metrics = {
        "validation": scores_of(found, manifest.config), "test": None, "test_openings": [],
        **altered_scores(altered, validation), **(notes or {}),
    }  # fmt: skip
    extras = Extras(known=known_images(store, trial), altered=altered)
    write_bundle(out, manifest, checkpoint.files[MODEL], metrics, validation=validation, extras=extras, force=force)
    return manifest, found


def known_images(store: CheckpointStore, *trials: FrozenTrial) -> ImageDigests | None:
    """Return the images that trials of one split were trained with; None, with a warning, where they are not known."""
    recorded = [digest for trial in trials if (digest := TrialRecord.of(trial).split_digest)]
    for digest in dict.fromkeys(recorded):
        try:
            known = ImageDigests.from_bytes(store.images(digest) or b"")
        except (ValueError, EOFError):
            log.warning("the digests of the images of this study are missing in %s, or damaged", store.place)
            continue
        if known.split_digest == digest:
            return known
    why = "a worker that joins the study writes them anew" if recorded else "an earlier version of hpo trained it"
    log.warning("the bundle has no digests of its images, so `hpo evaluate` cannot leave those out: %s", why)
    return None


def read_best(store: CheckpointStore, study: Study, trial: FrozenTrial) -> Checkpoint:
    """Return a trial's best weights and predictions: the newest undamaged version that matches the trial's record.

    A version of another epoch, with another value or of another trial is never taken: a later one may be damaged, a
    killed worker may have left one that its successor did not reach again, and two studies may share an id. Raises
    BundleError, with the fault of each version, where none is left.
    """
    metric, number, record = read_spec(study).metric, trial.number, TrialRecord.of(trial)
    refused: list[str] = []
    try:
        for name in store.names(number, "best"):
            checkpoint = store.read(number, "best", version=name)
            why = mismatched_best(checkpoint.info, record, metric)
            if checkpoint.name == name and why is None:
                return checkpoint
            refused.append(f"{name}: {why}" if checkpoint.name == name else checkpoint.damaged[0])
    except CheckpointError as error:
        refused = [str(error)]
    why = "; ".join(refused) or f"no best checkpoint in {store.place}: none was written, or it was removed for space"
    raise BundleError(
        f"trial {number} of study {study.study_name!r} cannot be exported: {why}; give the --artifacts of its workers, "
        "or another --trial, as only the best of a study keep their checkpoints"
    )


def _refuse_damaged_weights(checkpoint: Checkpoint) -> None:
    """Raise BundleError where a checkpoint's weights are no tensors, or not finite."""
    source, way_out = f"checkpoint {checkpoint.name}", "name another --trial"
    try:
        tensors = safetensors.torch.load(checkpoint.files[MODEL])
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{source} holds no weights ({error}); {way_out}") from None
    refuse_not_finite(tensors, source, way_out)


def validation_of(checkpoint: Checkpoint) -> Validation:
    """Return a checkpoint's predictions on the validation part; BundleError where they were not stored."""
    if "logits.npy" not in checkpoint.files:
        raise BundleError(f"checkpoint {checkpoint.name} holds no predictions on validation images; name another trial")
    return Validation(_array(checkpoint, "labels.npy"), _array(checkpoint, "logits.npy"))


def altered_of(checkpoint: Checkpoint) -> AlteredPredictions | None:
    """Return a checkpoint's predictions on the altered part; None where there are none."""
    if "altered_logits.npy" not in checkpoint.files:
        return None
    return AlteredPredictions(_array(checkpoint, "altered_rows.npy"), _array(checkpoint, "altered_logits.npy"))


def altered_scores(found: AlteredPredictions | None, validation: Validation) -> dict[str, Any]:
    """Return the key `altered` of metrics.json: scores on the altered part; nothing where there is none.

    The interval of the accuracy allows for several altered images showing one image.
    """
    if found is None:
        return {}
    labels = validation.labels[found.rows]
    interval = clustered(found.logits.argmax(axis=1) == labels, found.rows).interval
    images = {"n": len(found.rows), "images": len(np.unique(found.rows)), "interval": list(interval)}
    return {"altered": {**scores(labels, found.logits), **images}}


def scores_of(found: Report, config: TrialConfig) -> dict[str, Any]:
    """Return a trial's validation report for metrics.json, with `augmented` where the images were augmented."""
    share = {"augmented": config.validation_augmented} if augmented_validation(config) else {}
    return {**found.to_dict(), **share}


def compared_trials(study: Study) -> int:
    """Return the number of trials with a value on the validation part, among which the best one was found.

    Pruned and unfinished trials count, since their reports have decided against them. The epochs of a trial do not
    count: they are of one network, and much alike.
    """
    return sum(trial.value is not None or bool(trial.intermediate_values) for trial in study.get_trials(deepcopy=False))


def trial_manifest(study: str, spec: StudySpec, trial: FrozenTrial, *, compared: int | None = None) -> Manifest:
    """Return the manifest of a complete trial, not yet calibrated; BundleError where it recorded too little.

    `compared` is the number of trials that it was chosen among.
    """
    source = f"trial {trial.number} of study {study!r}"
    record = TrialRecord.of(trial)
    _refuse_incomplete(record, source)
    facts = record.facts
    # With the precision that `auto` chose in the trial: a retraining on another machine must not choose anew.
    config = TrialConfig.from_stored({**record.config, "precision": facts["precision"]}, source=source)
    config = shared(config)
    preprocessing = {
        "image_size": config.image_size, "mean": facts["mean"], "std": facts["std"], "resize": RESIZE_RULE,
        "background": config.background,
    }  # fmt: skip
    values = {
        "stage": "exported",
        "study": study,
        "trial": trial.number,
        "metric": spec.metric,
        "config": config,
        "classes": spec.data["classes"],
        "preprocessing": Preprocessing.model_validate(preprocessing),
        "epochs": record.best_epoch,
        "best_epoch": record.best_epoch,
        "compared": compared,
        "curve": _curve(trial, record),
        "folds": _fold_values(record),
        "robustness": _robustness(spec, record),
        "probe": facts.get("probe"),
        "seed": record.seed,
        "data": origin_of(spec).model_copy(update={"split_digest": record.split_digest or None, "folds_digest": None}),
        "weights": _weights(facts["weights"]),
        "versions": record.versions,
    }
    return Manifest.from_dict(values, source=source, way_out="name another --trial")


def _curve(trial: FrozenTrial, record: TrialRecord) -> list[float]:
    """Return the metric after each epoch that the exported model was trained for or could have been."""
    if record.folds.get("curves"):
        return list(record.folds["curves"][0])
    if record.probe and trial.value is not None:  # reported no step
        return [trial.value]
    return [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]


def _fold_values(record: TrialRecord) -> dict[str, Any] | None:
    """Return the fields of `FoldValues`; None without folds, or where the time was up in the first."""
    if not record.folds.get("values"):
        return None
    return {key: record.folds[key] for key in ("values", "best_epochs", "standard_error")}


def _robustness(spec: StudySpec, record: TrialRecord) -> dict[str, Any] | None:
    """Return the fields of `RobustnessFigures`; None where clean images alone count."""
    if not spec.robustness or record.clean is None:
        return None
    return {"weight": spec.robustness, "clean": record.clean, "altered": record.altered}


def is_of_trial(manifest: Manifest, trial: Manifest) -> bool:
    """Whether an exported bundle is of the trial with the manifest `trial`; the study's name does not matter."""

    def identity(one: Manifest) -> tuple[object, ...]:
        return (
            one.stage,
            one.adapted,
            one.interpolated,
            one.finished,
            one.trial,
            one.seed,
            one.best_epoch,
            one.curve,
            one.config.replace(weights=None),
        )

    return identity(manifest) == identity(trial)


def _refuse_incomplete(record: TrialRecord, source: str) -> None:
    """Raise BundleError where a trial did not record all that a bundle needs."""
    needed = {
        "facts": bool(record.facts),
        "config": bool(record.config),
        **{key: key in record.facts for key in ("precision", "mean", "std")},
        "best_epoch": record.best_epoch is not None,
        "seed": record.seed is not None,
        "weights": "weights" in record.facts,
        "versions": bool(record.versions),
    }
    for key, recorded in needed.items():
        if not recorded:
            raise BundleError(f"{source} recorded no {key!r}, so it cannot be exported; name another --trial")


def _weights(loaded: Mapping[str, Any] | None) -> Weights:
    """Return the weights that training recorded; `loaded` is None where there was no file."""
    return Weights(file=Path(loaded["file"]).name, digest=loaded["digest"]) if loaded else Weights()


def _array(checkpoint: Checkpoint, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(io.BytesIO(checkpoint.files[name]), allow_pickle=False)
    return array
