"""A bundle's classifier, in memory and ready to predict.

    model = hpo.load("final/")
    for prediction in model.predict(["a.jpg", "b.jpg"]):
        print(prediction.name, prediction.label, prediction.probability)

It is one network, or the members of an ensemble, each with the normalisation of its images. With test-time augmentation
(tta) its probabilities are the mean over several views of each image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from hpo.bundle.bundle import Bundle, read_bundle
from hpo.bundle.inputs import Inputs, Prediction, batches_of, predictions
from hpo.bundle.manifest import Triple
from hpo.bundle.proofs import BundleSets, SetOptions, abstention_of, sets_of
from hpo.data.dataset import Images
from hpo.device import limit_threads, resolve_device
from hpo.errors import BundleError, ModelError, UsageError
from hpo.evaluation.calibration import Abstention, Probabilities, log_probabilities, probabilities
from hpo.evaluation.conformal import SetMethod
from hpo.evaluation.metrics import Logits
from hpo.models.built_model import build_model
from hpo.models.inference import Predictor
from search_spaces import Background, Symmetry, TrialConfig

BATCH_SIZE = 256

Tta = Literal["none", "mirror", "flips", "dihedral"]

View = Callable[[Images], Images]
"""(b, S, S, 3) uint8 to the same."""

Tensors = Mapping[str, torch.Tensor]


def load(path: str | Path, device: str | None = None) -> Model:
    """Return the classifier of the bundle at `path`, ready on `device` (auto, cpu, cuda, cuda:N; None is auto).

    Raises BundleError where the folder is not a bundle or is damaged, ModelError for an unknown backbone.
    """
    return Model(read_bundle(path), device)


class Model:
    """The classifier of a bundle, one network or an ensemble of several, on one device, in float32."""

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        self.bundle = bundle
        self.device = resolve_device(device or "auto")
        limit_threads()
        self.networks: tuple[Network, ...] = networks_of(bundle)
        """Each with its normalisation and its weight; the heaviest first."""
        self._predictors = tuple(
            Predictor(
                network.module, mean=network.mean, std=network.std, device=self.device, background=network.background
            )
            for network in self.networks
        )

    @property
    def network(self) -> torch.nn.Module:
        """The network; of an ensemble the heaviest member's."""
        return self.networks[0].module

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; an index is a position here."""
        return self.bundle.manifest.classes

    @property
    def config(self) -> TrialConfig:
        """The configuration that the model was trained with."""
        return self.bundle.manifest.config

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.bundle.manifest.preprocessing.image_size

    @property
    def white_level(self) -> int:
        """The value of 16-bit images that becomes 255."""
        return self.bundle.manifest.data.white

    @property
    def temperature(self) -> float:
        """Divisor of the logits before they become probabilities; 1 where the bundle is not calibrated."""
        return self.bundle.manifest.temperature

    def predict(
        self, images: Inputs, *, batch_size: int = BATCH_SIZE, tta: Tta = "none", accuracy: float | None = None
    ) -> list[Prediction]:
        """Return one prediction per image, in order; DataError names the first that cannot be read.

        `images` is any number of paths, bytes of image files, open files, Pillow images, arrays or tensors, in a list
        or as they come: no more than `batch_size` are in memory. See `hpo.bundle.inputs`. With `accuracy` the model
        abstains from answers that are not sure enough for it: see `abstention`, also for the errors.
        """
        threshold = self.abstention(accuracy).threshold if accuracy is not None else 0.0
        found: list[Prediction] = []
        for names, pixels in batches_of(images, self.image_size, batch_size, self.white_level):
            found += predictions(names, self.probabilities_of([pixels], tta), self.classes, threshold)
        return found

    def predict_sets(
        self,
        images: Inputs,
        level: float = 0.95,
        *,
        method: SetMethod = "lac",
        by_class: bool = False,
        clean: bool = False,
        batch_size: int = BATCH_SIZE,
    ) -> list[Prediction]:
        """Return predictions as `predict` does, each with the set of classes that holds the true one.

        It does so with the probability `level`, for images like the calibration images of the bundle: see `sets`, also
        for the errors.
        """
        rule = self.sets(SetOptions(level, method, by_class, clean)).rule
        found: list[Prediction] = []
        for names, pixels in batches_of(images, self.image_size, batch_size, self.white_level):
            found += predictions(names, self.probabilities_of([pixels]), self.classes, sets=rule)
        return found

    def logits(self, images: Inputs, *, batch_size: int = BATCH_SIZE) -> Logits:
        """Return (n, C) float32 for n images, read and resized `batch_size` at a time; DataError as in `predict`."""
        return self.logits_of(pixels for _, pixels in batches_of(images, self.image_size, batch_size, self.white_level))

    def logits_of(self, batches: Iterable[Images]) -> Logits:
        """Return (n, C) float32 of batches (b, S, S, 3) uint8 of the model's own image size, one at a time.

        For an ensemble they are the logarithms of its members' mean probabilities, and for a bundle that averages views
        those of the mean over the views.
        """
        if self.bundle.manifest.views != "none":
            rows = [self._mean_over_views(batch) for batch in batches]
            return np.concatenate(rows) if rows else self._no_logits()
        return self._logits_of(batches)

    def _mean_over_views(self, batch: Images) -> Logits:
        views = VIEWS[self.bundle.manifest.views]
        logits = self._logits_of(view(batch) for view in views).reshape(len(views), len(batch), -1)
        return mean_of_views(logits)

    def _logits_of(self, batches: Iterable[Images]) -> Logits:
        if len(self._predictors) == 1:
            found = self._predictors[0].logits(batches)
            return found if len(found) else self._no_logits()
        rows = [self._ensemble_logits(batch) for batch in batches]
        return np.concatenate(rows) if rows else self._no_logits()

    def _ensemble_logits(self, batch: Images) -> Logits:
        total = np.zeros((len(batch), len(self.classes)))
        for predictor, member in zip(self._predictors, self.bundle.manifest.members, strict=True):
            total += member.weight * probabilities(predictor.logits([batch]), member.temperature)
        return log_probabilities(total).astype(np.float32)

    def _no_logits(self) -> Logits:
        return np.empty((0, len(self.classes)), dtype=np.float32)

    def probabilities_of(self, batches: Iterable[Images], tta: Tta = "none") -> Probabilities:
        """Return (n, C) float64: calibrated, the mean over the views of `tta`; batches as in `logits_of`."""
        if tta == "none":
            return probabilities(self.logits_of(batches), self.temperature)
        rows = [self.calibrated(self.view_logits(batch, tta)) for batch in batches]
        return np.concatenate(rows) if rows else np.empty((0, len(self.classes)))

    def view_logits(self, batch: Images, tta: Tta) -> Logits:
        """Return (v, b, C) float32: logits of (b, S, S, 3) uint8 under each view of `tta`, the unchanged image first.

        Raises UsageError where the labels of the model's images do not survive these views.
        """
        self.check_tta(tta)
        views = VIEWS[tta]
        return self.logits_of(view(batch) for view in views).reshape(len(views), len(batch), -1)

    def check_tta(self, tta: Tta) -> None:
        """Raise UsageError where the labels do not survive the views of `tta`, or the bundle averages views already."""
        own = self.bundle.manifest.views
        if tta != "none" and own != "none":
            raise UsageError(
                f"--tta is {tta}, but every prediction of {self.bundle.path} is the mean over views already ({own}); "
                "leave --tta out"
            )
        check_tta(tta, self.config.symmetry)

    def calibrated(self, view_logits: Logits) -> Probabilities:
        """Return (b, C) float64: the mean over the views of the calibrated probabilities of (v, b, C) logits."""
        mean: Probabilities = probabilities(view_logits, self.temperature).mean(axis=0)
        return mean

    def abstention(self, accuracy: float) -> Abstention:
        """Return the confidence below which to abstain so that a share of `accuracy` of the answers is right.

        It is chosen on predictions that the bundle holds, without test-time augmentation, which must prove it with
        95 % confidence. Raises BundleError where it holds none on plain images, UsageError for an accuracy out of range
        or one that no threshold is sure to reach.
        """
        return abstention_of(self.bundle, accuracy)

    def sets(self, options: SetOptions | None = None) -> BundleSets:
        """Return which classes are in the set of an image, and what that is proved on, as `sets_of` does."""
        return sets_of(self.bundle, options or SetOptions())


class Network(NamedTuple):
    """A network in evaluation mode, with its normalisation and its weight."""

    module: torch.nn.Module
    """(b, 3, S, S) normalised float32 -> (b, C) logits."""
    mean: Triple
    std: Triple
    weight: float
    """Share of the ensemble's probabilities; 1 for a single model."""
    background: Background = "keep"
    """Whether it sees images with their background or without."""


def networks_of(bundle: Bundle) -> tuple[Network, ...]:
    """Return the bundle's networks with their weights, on the CPU.

    Raises BundleError where the weights do not fit the networks of the installed timm.
    """
    manifest = bundle.manifest
    tensors = _read_tensors(bundle)
    if not manifest.members:
        steps = manifest.preprocessing
        return (Network(_network(bundle, manifest.config, tensors), steps.mean, steps.std, 1.0, steps.background),)
    return tuple(
        Network(
            _network(bundle, member.config, _of_member(tensors, i)),
            member.mean,
            member.std,
            member.weight,
            member.config.background,
        )
        for i, member in enumerate(manifest.members)
    )


def _read_tensors(bundle: Bundle) -> Tensors:
    try:
        tensors: Tensors = safetensors.torch.load(bundle.model)
    except SafetensorError as error:
        raise BundleError(_misfit(bundle, bundle.manifest.config, error)) from None
    refuse_not_finite(tensors, str(bundle.model_file), "export another trial")
    return tensors


def refuse_not_finite(tensors: Tensors, source: str, way_out: str) -> None:
    """Raise BundleError where a weight is NaN or infinite: such a network answers the same for every image."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BundleError(f"{source}: {name} holds NaN or infinite values; {way_out}")


def _network(bundle: Bundle, config: TrialConfig, tensors: Tensors) -> torch.nn.Module:
    try:
        network = build_model(config, len(bundle.manifest.classes), initialise=False).model
    except ModelError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise BundleError(_misfit(bundle, config, error)) from None
    return network.eval()


def _misfit(bundle: Bundle, config: TrialConfig, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return (
        f"{bundle.model_file} does not fit {config.backbone} of timm here ({reason}); "
        "install the versions that config.json names"
    )


def pack_members(members: Iterable[bytes]) -> bytes:
    """Return the weights of several models, safetensors each and taken one by one, in one safetensors file."""
    packed = {
        f"{_prefix(number)}{name}": tensor
        for number, model in enumerate(members)
        for name, tensor in safetensors.torch.load(model).items()
    }
    return safetensors.torch.save(packed)


def _of_member(tensors: Tensors, number: int) -> Tensors:
    prefix = _prefix(number)
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _prefix(number: int) -> str:
    return f"members.{number}."


def mean_of_views(view_logits: Logits) -> Logits:
    """Return (b, C) float32: the logarithms of the mean probabilities of (v, b, C) logits."""
    return log_probabilities(probabilities(view_logits).mean(axis=0)).astype(np.float32)


def allowed_views(symmetry: Symmetry) -> tuple[Tta, ...]:
    """Return the views under which images with this `symmetry` keep their label."""
    return _ALLOWED[symmetry]


def check_tta(tta: Tta, symmetry: Symmetry) -> None:
    """Raise UsageError where images with this `symmetry` of labels may change their label under a view of `tta`."""
    if tta not in VIEWS:
        raise UsageError(f"tta is {tta!r}, but must be one of {', '.join(VIEWS)}")
    allowed = _ALLOWED[symmetry]
    if tta not in allowed:
        raise UsageError(
            f"--tta {tta} shows the model views that the labels of its images do not survive: it was trained with "
            f"symmetry {symmetry}; give --tta {' or '.join(allowed)}, or train with another --set symmetry"
        )


def _rotation(quarters: int, *, mirrored: bool) -> View:
    def view(images: Images) -> Images:
        first = images[:, :, ::-1] if mirrored else images
        return np.ascontiguousarray(np.rot90(first, quarters, axes=(1, 2)))

    return view


_DIHEDRAL = tuple(_rotation(quarters, mirrored=mirrored) for mirrored in (False, True) for quarters in range(4))

VIEWS: dict[Tta, tuple[View, ...]] = {
    "none": _DIHEDRAL[:1],
    "mirror": _DIHEDRAL[0::4],
    "flips": _DIHEDRAL[0::2],
    "dihedral": _DIHEDRAL,
}
"""The unchanged image comes first. `mirror` adds left-right; `flips` left-right, up-down and both; `dihedral` has all 8
symmetries of a square."""

_ALLOWED: dict[Symmetry, tuple[Tta, ...]] = {"none": ("none",), "mirror": ("none", "mirror"), "dihedral": tuple(VIEWS)}
