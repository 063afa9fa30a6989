"""Train a bundle's configuration once more, on train and val together, and measure it on the locked test part."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.bundle import Bundle, Extras, check_out, write_bundle
from hpo.bundle.evaluate import without_known
from hpo.bundle.manifest import Manifest, ProbeFit, shared
from hpo.bundle.measurement import ModelMeasurement, measure
from hpo.bundle.model import Model
from hpo.bundle.model_card import refresh_card
from hpo.bundle.own_data import refuse_other_split, reopen, reopen_same
from hpo.bundle.proofs import SetOptions
from hpo.bundle.set_coverage import SetMeasurement, keep_test, measure_sets
from hpo.bundle.stored_metrics import new_opening, record_opening
from hpo.data import DataOrigin, Dataset, ImageDigests, Part, Progress
from hpo.delivery.original_weights import with_weights
from hpo.delivery.weight_changes import repeat_changes
from hpo.errors import BundleError, TrialEnded
from hpo.hints import hint
from hpo.models import build_model
from hpo.search.frozen_probe import FeatureSource, probe_fitter
from hpo.search.trial_record import versions
from hpo.training import EpochResult, FitData, Runtime, fit
from hpo.training.loop import Fitter

COMMAND = "retrain"


@dataclass(frozen=True)
class RetrainOptions:
    """Options of a retraining; the configuration itself is the bundle's."""

    cache: Path
    device: str = "cpu"
    weights: Path | None = None
    """Path of the original weights file; None looks for it as `original_weights` does."""
    other_data: bool = False
    """Allow other data than the bundle's."""
    other_weights: bool = False
    """Allow another weights file than the trial's."""
    force: bool = False
    """Replace a bundle at `out`."""
    ledger: AccessLedger = field(default_factory=AccessLedger)
    """Where the test access is recorded, beside both bundles."""


@dataclass(frozen=True)
class RetrainCallbacks:
    """Callbacks for the progress of a retraining."""

    decoding: Callable[[], AbstractContextManager[Progress | None]] = nullcontext
    """Gives the progress display for the time of the decoding."""
    on_epoch: Callable[[EpochResult, int], None] = lambda result, epochs: None
    """Called after each epoch with its result and the total number of epochs."""
    on_test: Callable[[Model, Part, SetMeasurement | None], None] = lambda model, test, sets: None
    """Called with the new model and the test part once it was measured there: what more is measured is of that
    access."""


@dataclass(frozen=True)
class Retrained:
    """The result of a retraining."""

    manifest: Manifest
    test: ModelMeasurement | None
    """None where the data set has no test part, so that nothing has measured the model."""
    accesses: AccessCounts | None
    """Counts of the accesses to this test part so far; None where there is none."""
    images: int
    """Images trained on."""
    left_out: int = 0
    """Test images that are copies of images trained on, and were therefore not measured."""

    @property
    def openings(self) -> int:
        """Number of times that this test part has been opened so far, with any model."""
        return self.accesses.count if self.accesses else 0


def retrain(
    bundle: Bundle, data: Path, out: Path, options: RetrainOptions, callbacks: RetrainCallbacks | None = None
) -> Retrained:
    """Train `bundle`'s configuration on train + val for its best number of epochs and write a new bundle to `out`.

    The schedule keeps its horizon (`config.epochs`), so the epochs are those that validation saw. The test part, where
    there is one, is opened once, and that is recorded in both bundles. What was changed in the bundle after its trial
    (WiSE-FT, last layer, statistics, views) is changed in the new model too. The bundle's validation predictions and
    their temperature are kept, as the new model has trained on those images; of other data there are none. Raises
    DataError for other data, BundleError for missing or other weights, a bundle of several models, and where `out` may
    not be written; nothing is written then.
    """
    callbacks = callbacks or RetrainCallbacks()
    _refuse_joint_model(bundle)
    check_out(out, force=options.force)
    plan = with_weights(bundle.manifest, options.weights, other=options.other_weights, cache=options.cache)
    if not options.other_weights:
        _refuse_other_normalisation(plan)
    dataset = _open_data(plan, data, options, callbacks)
    plan = plan.model_copy(update={"data": _origin(plan, dataset), "classes": dataset.classes})
    trained = _train(plan, dataset, options, callbacks)
    of_trial = bundle.manifest.data.is_of(dataset)
    manifest = _new_manifest(plan, trained, of_trial=of_trial)
    validation = bundle.validation if of_trial else None
    metrics = _kept_metrics(bundle, of_trial=of_trial)
    known = ImageDigests.of(dataset)
    extras = Extras(bundle.crossed, known, bundle.altered) if of_trial else Extras(known=known)
    # Written before the test, so that a failure of the test does not lose the trained model.
    write_bundle(out, manifest, trained.model, metrics, validation=validation, extras=extras, force=options.force)
    images = len(dataset.train) + len(dataset.val)
    if not known.test_digest:
        return Retrained(manifest, None, None, images, dataset.test_count)
    test, left_out = without_known(dataset.open_test(), known, data)
    written = Bundle(out, manifest, metrics, trained.model, validation, extras.crossed, known, extras.altered)
    measured, accesses = _measure_test(written, bundle.path, test, options, callbacks)
    return Retrained(manifest, measured, accesses, images, left_out.left_out)


def _kept_metrics(bundle: Bundle, *, of_trial: bool) -> dict[str, Any]:
    """Return metrics.json of the new bundle: the openings and, if they are `of_trial` and its data, the figures."""
    known = bundle.metrics if of_trial else {}
    return {
        "validation": known.get("validation"),
        "test": None,
        "test_openings": bundle.metrics.get("test_openings", []),
        **({"altered": known["altered"]} if "altered" in known else {}),
    }


def _refuse_joint_model(bundle: Bundle) -> None:
    manifest = bundle.manifest
    if manifest.stage not in ("ensemble", "soup"):
        return
    kind = "an ensemble" if manifest.members else "a soup"
    raise BundleError(
        f"{bundle.path} is {kind} of several trials, but a retraining is of one; take the best of them: "
        f"`{hint('export-best', study=manifest.study, trial=manifest.trial, out='best/')}`, then retrain that bundle"
    )


def _measure_test(
    bundle: Bundle, source: Path, test: Part, options: RetrainOptions, callbacks: RetrainCallbacks
) -> tuple[ModelMeasurement, AccessCounts]:
    """Measure the new bundle on the test part; the access is recorded in it and in the bundle it comes from."""
    assert bundle.known is not None
    opening = new_opening(
        COMMAND, bundle.manifest.data.fingerprint, len(test), test=bundle.known.test_digest, model=bundle.model_digest
    )
    accesses = options.ledger.begin(bundle.path, opening)
    model = Model(bundle, options.device)
    found = measure(model, test)
    accuracy = found.report.accuracy
    stored = {key: value for key, value in found.to_dict().items() if key != "tta"}
    options.ledger.end(bundle.path, opening, accuracy, test=stored)
    sets, _ = measure_sets(bundle, found.predicted, SetOptions())
    keep_test(bundle, opening["test"], found.predicted, sets)
    if bundle.path.resolve() != source.resolve():
        record_opening(source, {**opening, "accuracy": accuracy})
        refresh_card(source)
    callbacks.on_test(model, test, sets)
    return found, accesses


@dataclass(frozen=True)
class _TrainedWeights:
    """Weights after the last epoch."""

    model: bytes
    facts: dict[str, Any]


def _open_data(manifest: Manifest, data: Path, options: RetrainOptions, callbacks: RetrainCallbacks) -> Dataset:
    maker, way_out = "the bundle", "give the same data, or --other-data to train on these"
    with callbacks.decoding() as progress:
        if options.other_data:
            dataset = reopen(manifest, data, options.cache, progress)
            if manifest.data.is_of(dataset):
                refuse_other_split(manifest, dataset, data, maker=maker)
            return dataset
        return reopen_same(manifest, data, options.cache, progress, maker=maker, way_out=way_out)


def _refuse_other_normalisation(manifest: Manifest) -> None:
    """Raise BundleError where the files beside the weights give another normalisation than the trial had."""
    if not (manifest.config.pretrained and manifest.config.weights):
        return
    built, steps = build_model(manifest.config, len(manifest.classes)), manifest.preprocessing
    if (built.mean, built.std) != (steps.mean, steps.std):
        raise BundleError(
            f"{manifest.config.weights} comes with mean {built.mean} and std {built.std}, but the trial had "
            f"{steps.mean} and {steps.std}; copy the .json or config.json along with the weights"
        )


def _train(
    manifest: Manifest, dataset: Dataset, options: RetrainOptions, callbacks: RetrainCallbacks
) -> _TrainedWeights:
    """Run the schedule up to the best epoch, without validation, since its images are among those trained on."""
    everything: Part = dataset.train.joined(dataset.val)
    runtime = Runtime(
        device=options.device, seed=manifest.seed, cache=options.cache, metric=manifest.metric, scores=manifest.curve
    )  # fmt: skip
    data = FitData(everything, None, len(dataset.classes))
    fitter: Fitter = fit
    if manifest.probe:
        fitter = probe_fitter(FeatureSource.of(dataset, options.cache), manifest.probe.penalty)
    try:
        for result in fitter(manifest.config, data, runtime, None):
            callbacks.on_epoch(result, manifest.epochs_to_retrain)
            if result.epoch == manifest.epochs_to_retrain:
                facts = dict(result.facts)
                model = repeat_changes(manifest, result.weights(), everything, options.cache, options.device)
                return _TrainedWeights(model, facts)
    except TrialEnded as ended:
        raise BundleError(f"training ended without a model: {ended.reason}; retrain another trial") from None
    raise BundleError(
        f"the best epoch is {manifest.epochs_to_retrain}, but the configuration ends after {manifest.config.epochs}; "
        "export the bundle again"
    )


def _new_manifest(manifest: Manifest, trained: _TrainedWeights, *, of_trial: bool) -> Manifest:
    steps = manifest.preprocessing.model_copy(
        update={"mean": tuple(trained.facts["mean"]), "std": tuple(trained.facts["std"])}
    )
    kept = manifest.calibration if of_trial else None
    return manifest.model_copy(
        update={
            "stage": "retrained",
            "adapted": None,
            "config": shared(manifest.config),
            "calibration": kept.model_copy(update={"fitted_on": "trial"}) if kept else None,
            "epochs": manifest.epochs_to_retrain,
            "probe": ProbeFit(**trained.facts["probe"]) if manifest.probe else None,
            "preprocessing": steps,
            "versions": versions(),
        }
    )


def _origin(manifest: Manifest, dataset: Dataset) -> DataOrigin:
    return DataOrigin.of(dataset, manifest.data.options)
