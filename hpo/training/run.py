"""Run: one training run put together from its configuration, or from a snapshot of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hpo.data.dataset import Part, rows_in_order
from hpo.errors import DataError, ModelError
from hpo.models.built_model import BuiltModel, build_model, count_parameters
from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.seeds import derive_seed, seeded
from hpo.training.batches import training_feed, validation_feed
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
"""Of the layout of `Snapshot.state` and of the names in `Snapshot.resume`."""


@dataclass
class Run:
    """A run wherever it stands: between two epochs, or within one."""

    config: TrialConfig
    data: FitData
    runtime: Runtime
    device: torch.device
    compute_format: ComputeFormat
    learner: Learner | BaselineLearner
    loader: Loader
    validation: ImageValidation | FeatureValidation | None
    updates: int
    """Optimiser updates of an epoch."""
    facts: Mapping[str, Any]
    position: Position
    guard: Guard = field(default_factory=Guard)
    plateau: Plateau = field(default_factory=Plateau)
    """Of the score, in the last stage: before that more of the network is to come."""

    @property
    def over(self) -> bool:
        """Whether no epoch follows: a baseline has one, and patience may end the others."""
        epochs = 1 if isinstance(self.learner, BaselineLearner) else self.config.epochs
        impatient = 0 < self.config.patience <= self.plateau.epochs
        return self.position.epoch >= epochs or impatient

    def record_score(self, score: float) -> None:
        """Count the epoch that is done, its score being larger where it is better."""
        self.learner.record_score(score)
        if self.learner.in_last_stage:
            self.plateau = self.plateau.after(score)
        self.position = Position.start(self.position.epoch + 1, self.device)

    def weights(self) -> bytes:
        """safetensors of the weights to evaluate and keep: the moving average, where there is one."""
        return pack(self.learner.evaluated.state_dict())

    def snapshot(self) -> Snapshot:
        """The state of now, to be given to `prepare`."""
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
    """The run before its first step, or where `resume` was taken.

    TrainingInterrupted, without a snapshot, when asked to stop meanwhile.
    """
    if resume is not None and resume.state["version"] != VERSION:
        raise ModelError(f"the checkpoint is of layout {resume.state['version']}, but must be of {VERSION}; start anew")
    if data.train.images.shape[1] != config.image_size:
        packed = data.train.images.shape[1]
        raise DataError(
            f"image_size is {config.image_size}, but the images are packed at {packed}; pack them at that size"
        )
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
    run = _Assembly(config, data, runtime, built, compute_format).run(device)
    if resume is not None:
        _restore(run, resume)
    return run


def _compute_format(config: TrialConfig, model: Classifier, device: torch.device, runtime: Runtime) -> ComputeFormat:
    """The format to train in; a baseline, which is not trained, computes in the plain one."""
    if not model.learns:
        return ComputeFormat()
    return choose_format(config, model, device, runtime.cache, runtime.should_stop)


def _restore(run: Run, resume: Snapshot) -> None:
    tensors = unpack(resume.resume)
    run.learner.restore(tensors, resume.state["learner"])
    run.position = Position.restored(tensors, resume.state["position"], run.device)
    run.guard = Guard(**resume.state["guard"])
    run.plateau = Plateau.from_dict(resume.state["standstill"])


@dataclass(frozen=True)
class _Assembly:
    """The choices of a run, and what each of them is made into."""

    config: TrialConfig
    data: FitData
    runtime: Runtime
    built: BuiltModel
    compute_format: ComputeFormat

    def run(self, device: torch.device) -> Run:
        order = Order(self.config, self.data.train, device, self.runtime.seed)
        on_features = inputs_repeat(self.config) and self._storable(self.data.train)
        facts = self._facts(device)  # before the learner freezes what does not train in the first phase
        return Run(
            config=self.config,
            data=self.data,
            runtime=self.runtime,
            device=device,
            compute_format=self.compute_format,
            learner=self._learner(device, order.updates, on_features=on_features),
            loader=self._feature_loader(order, device) if on_features else self._image_loader(order, device),
            validation=self._validation(device),
            updates=order.updates,
            facts=facts,
            position=Position.start(0, device),
        )

    def _learner(self, device: torch.device, per_epoch: int, *, on_features: bool) -> Learner | BaselineLearner:
        config, model = self.config, self.built.model
        loss = build_loss(config, self.data.train.labels, self.data.classes)
        if not model.learns:
            return BaselineLearner(model, Objective(config, model, loss, self.compute_format, device=device))
        return Learner(
            config,
            model,
            loss,
            self.compute_format,
            per_epoch=per_epoch,
            on_features=on_features,
            cache=self.runtime.cache,
        )

    def _image_loader(self, order: Order, device: torch.device) -> ImageLoader:
        feed = training_feed(self.config, self.data.train, device, self.runtime)
        mixer = build_mixer(self.config, self.data.classes)
        return ImageLoader(order, feed, self._normaliser(device), mixer, self.runtime.seed)

    def _feature_loader(self, order: Order, device: torch.device) -> FeatureLoader:
        return FeatureLoader(order, self.data.train, self.built.model, self._extractor(device))

    def _validation(self, device: torch.device) -> ImageValidation | FeatureValidation | None:
        part = self.data.val
        if part is None:
            return None
        if validation_repeats(self.config) and self._storable(part):
            return FeatureValidation(part, self._extractor(device), self.compute_format, self._batch_size)
        feed = validation_feed(self.config, part, device, self.runtime)
        rows = rows_in_order(len(part), self._batch_size)
        return ImageValidation(rows, feed, self._normaliser(device), self.compute_format, self.runtime.should_stop)

    @property
    def _batch_size(self) -> int:
        """Of a forward pass alone, which takes far less memory than a step."""
        return 2 * self.config.batch_size

    def _storable(self, part: Part) -> bool:
        return self.built.model.learns and storable(part, self.built.features)

    def _normaliser(self, device: torch.device) -> Normaliser:
        return Normaliser(self.built.mean, self.built.std, device, self.compute_format)

    def _extractor(self, device: torch.device) -> FeatureExtractor:
        normalise = self._normaliser(device)
        return FeatureExtractor(normalise, self.compute_format, self._batch_size, self.runtime.should_stop)

    def _facts(self, device: torch.device) -> dict[str, Any]:
        parameters, trainable = count_parameters(self.built.model)
        return {
            "device": device_name(device),
            **self.compute_format.to_dict(),
            "parameters": parameters,
            "trainable_parameters": trainable,
            "phases": len(self.config.phase_configs()),
            "origin": self.built.origin,
            "weights": self.built.weights.to_dict() if self.built.weights else None,
            "mean": list(self.built.mean),
            "std": list(self.built.std),
        }
