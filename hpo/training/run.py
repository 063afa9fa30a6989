"""Run: the state of one training run, made from its configuration or restored from a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hpo.augmentation.background import prepared
from hpo.data.dataset import Part, rows_in_order
from hpo.errors import DataError, ModelError
from hpo.models.built_model import BuiltModel, build_model, count_parameters
from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.seeds import derive_seed, seeded
from hpo.training.batches import training_feed, validation_feed
from hpo.training.epoch_order import drawn_labels
from hpo.training.learner import BaselineLearner, Learner
from hpo.training.loader import (
    FeatureExtractor,
    FeatureLoader,
    FeatureValidation,
    ImageLoader,
    ImageValidation,
    Loader,
    Order,
    inputs_repeat,
    storable,
    validation_repeats,
)
from hpo.training.loss import Objective, build_loss, build_mixer
from hpo.training.runtime import FitData, Runtime
from hpo.training.state import Position, Snapshot, pack, unpack
from hpo.training.stopping import Guard, Plateau
from hpo.training.tuning import choose_format, device_name
from search_spaces import TrialConfig

VERSION = 3
"""Version of the layout of `Snapshot.state` and of the names in `Snapshot.resume`."""


@dataclass
class Run:
    """One training run, between two epochs or within one."""

    config: TrialConfig
    data: FitData
    runtime: Runtime
    device: torch.device
    compute_format: ComputeFormat
    learner: Learner | BaselineLearner
    loader: Loader
    validation: ImageValidation | FeatureValidation | None
    altered: ImageValidation | FeatureValidation | None
    """Gives the logits of the altered part, if there is one."""
    images: int
    """Images of an epoch: those of the training part, or more where rare classes are oversampled."""
    updates: int
    """Optimiser updates of an epoch."""
    facts: Mapping[str, Any]
    position: Position
    guard: Guard = field(default_factory=Guard)
    plateau: Plateau = field(default_factory=Plateau)
    """Plateau of the score in the last stage; before that, more of the network will be unfrozen."""

    @property
    def over(self) -> bool:
        """Whether no epoch follows: a baseline has one epoch, and early stopping may end other runs."""
        epochs = 1 if isinstance(self.learner, BaselineLearner) else self.config.epochs
        stopped_early = 0 < self.config.patience <= self.plateau.epochs
        return self.position.epoch >= epochs or stopped_early

    def record_score(self, score: float) -> None:
        """Finish the current epoch with its score; larger is better."""
        self.learner.record_score(score)
        if self.learner.in_last_stage:
            self.plateau = self.plateau.after(score)
        self.position = Position.start(self.position.epoch + 1, self.device)

    def weights(self) -> bytes:
        """Return safetensors of the weights to evaluate and keep: the moving average if there is one."""
        return pack(self.learner.evaluated.state_dict())

    def snapshot(self) -> Snapshot:
        """Return the current state, from which `prepare` can resume."""
        return Snapshot(
            resume=pack({**self.learner.tensors(), **self.position.tensors()}),
            state={
                "version": VERSION,
                "position": self.position.to_dict(),
                "format": self.compute_format.to_dict(),
                "guard": self.guard.to_dict(),
                "standstill": self.plateau.to_dict(),
                "learner": self.learner.to_dict(),
            },
        )


def prepare(config: TrialConfig, data: FitData, runtime: Runtime, resume: Snapshot | None) -> Run:
    """Return the run before its first step, or at the position of `resume`.

    Raises TrainingInterrupted, without a snapshot, when stopped meanwhile.
    """
    if resume is not None and resume.state["version"] != VERSION:
        raise ModelError(f"the checkpoint is of layout {resume.state['version']}, but must be of {VERSION}; start anew")
    if data.train.images.shape[1] != config.image_size:
        packed = data.train.images.shape[1]
        raise DataError(
            f"image_size is {config.image_size}, but the images are packed at {packed}; pack them at that size"
        )
    data = _prepared(config, data)
    device = torch.device(runtime.device)
    with seeded(derive_seed(runtime.seed, "init"), device):
        built = build_model(config, data.classes)
    built.model.learn_priors(data.train.labels)
    compute_format = (
        ComputeFormat.from_dict(resume.state["format"])
        if resume is not None
        else _compute_format(config, built.model, device, runtime)
    )
    compute_format.place(built.model, device)
    run = _new_run(config, data, runtime, built, compute_format)
    if resume is not None:
        _restore(run, resume)
    return run


def _prepared(config: TrialConfig, data: FitData) -> FitData:
    """Return the data with the images as the network sees them; augmentation comes after that."""
    train = prepared(data.train, config.background)
    val = data.val and replace(data.val, prepare=train.prepare)
    altered = data.altered and replace(data.altered, prepare=prepared(data.altered, config.background).prepare)
    return replace(data, train=train, val=val, altered=altered)


def _compute_format(config: TrialConfig, model: Classifier, device: torch.device, runtime: Runtime) -> ComputeFormat:
    """Return the format to train in; a baseline, which is not trained, uses the default format."""
    if not model.learns:
        return ComputeFormat()
    return choose_format(config, model, device, runtime.cache, runtime.should_stop)


def _new_run(
    config: TrialConfig, data: FitData, runtime: Runtime, built: BuiltModel, compute_format: ComputeFormat
) -> Run:
    """Return the run before its first step; the model is on the device."""
    device = torch.device(runtime.device)
    order = Order(config, data.train, device, runtime.seed)
    normalise = Normaliser(built.mean, built.std, device, compute_format)
    extract = FeatureExtractor(normalise, compute_format, _evaluation_batch_size(config), runtime.should_stop)
    on_features = inputs_repeat(config) and _storable(data.train, built)
    # The learner freezes the blocks that do not train in the first phase, so the parameters are counted before.
    facts = _facts(config, built, compute_format, device)
    learner = _learner(config, data, runtime, built.model, compute_format, order.updates, on_features=on_features)
    loader: Loader
    if on_features:
        loader = FeatureLoader(order, data.train, built.model, extract)
    else:
        feed = training_feed(config, data.train, device, runtime)
        loader = ImageLoader(order, feed, normalise, build_mixer(config, data.classes), runtime.seed)
    measuring = (runtime, built, normalise, extract, compute_format)
    return Run(
        config=config,
        data=data,
        runtime=runtime,
        device=device,
        compute_format=compute_format,
        learner=learner,
        loader=loader,
        validation=_validation(config, data.val, *measuring),
        altered=_validation(config.replace(validation_augmented=0.0), data.altered, *measuring),
        images=order.images,
        updates=order.updates,
        facts=facts,
        position=Position.start(0, device),
    )


def _learner(
    config: TrialConfig,
    data: FitData,
    runtime: Runtime,
    model: Classifier,
    compute_format: ComputeFormat,
    per_epoch: int,
    *,
    on_features: bool,
) -> Learner | BaselineLearner:
    loss = build_loss(config, drawn_labels(data.train.labels, config), data.classes)
    if not model.learns:
        return BaselineLearner(
            model, Objective(config, model, loss, compute_format, device=torch.device(runtime.device))
        )
    cache = runtime.cache
    return Learner(config, model, loss, compute_format, per_epoch=per_epoch, on_features=on_features, cache=cache)


def _validation(
    config: TrialConfig,
    part: Part | None,
    runtime: Runtime,
    built: BuiltModel,
    normalise: Normaliser,
    extract: FeatureExtractor,
    compute_format: ComputeFormat,
) -> ImageValidation | FeatureValidation | None:
    if part is None:
        return None
    batch_size = _evaluation_batch_size(config)
    if validation_repeats(config) and _storable(part, built):
        return FeatureValidation(part, extract, compute_format, batch_size)
    feed = validation_feed(config, part, torch.device(runtime.device), runtime)
    return ImageValidation(rows_in_order(len(part), batch_size), feed, normalise, compute_format, runtime.should_stop)


def _evaluation_batch_size(config: TrialConfig) -> int:
    """Return the batch size of a forward pass alone, which takes far less memory than a step."""
    return 2 * config.batch_size


def _storable(part: Part, built: BuiltModel) -> bool:
    """Return whether the backbone's features of `part` may be stored; a baseline has none."""
    return built.model.learns and storable(part, built.features)


def _facts(
    config: TrialConfig, built: BuiltModel, compute_format: ComputeFormat, device: torch.device
) -> dict[str, Any]:
    """Return `EpochResult.facts`, without the micro-batch."""
    parameters, trainable = count_parameters(built.model)
    return {
        "device": device_name(device),
        **compute_format.to_dict(),
        "parameters": parameters,
        "trainable_parameters": trainable,
        "phases": len(config.phase_configs()),
        "origin": built.origin,
        "weights": built.weights.to_dict() if built.weights else None,
        "mean": list(built.mean),
        "std": list(built.std),
    }


def _restore(run: Run, resume: Snapshot) -> None:
    tensors = unpack(resume.resume)
    run.learner.restore(tensors, resume.state["learner"])
    run.position = Position.restored(tensors, resume.state["position"], run.device)
    run.guard = Guard(**resume.state["guard"])
    run.plateau = Plateau.from_dict(resume.state["standstill"])
