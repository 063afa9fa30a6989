"""The networks of a bundle, each with what an image goes through before it: one, or the members of an ensemble.

Test-time augmentation: the views under which a model looks at an image before its answers are averaged.

A bundle's classifier, in memory and ready to predict.

model = hpo.load("final/")
for prediction in model.predict(["a.jpg", "b.jpg"]):
    print(prediction.name, prediction.label, prediction.probability)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from hpo.bundle.bundle import read_bundle
from hpo.bundle.calibrate import abstention_of
from hpo.bundle.inputs import (
    Inputs,
    Prediction,
    batches_of,
    predictions,
)
from hpo.bundle.manifest import (
    Triple,
)
from hpo.data.dataset import Images
from hpo.device import limit_threads, resolve_device
from hpo.errors import BundleError, ModelError, UsageError
from hpo.evaluation.calibration import Abstention, Probabilities, log_probabilities, probabilities
from hpo.evaluation.metrics import Logits
from hpo.models.built_model import build_model
from hpo.models.inference import predict_logits
from search_spaces import Symmetry, TrialConfig

if TYPE_CHECKING:
    from hpo.bundle.bundle import Bundle


Tensors = Mapping[str, torch.Tensor]


class Network(NamedTuple):
    """A network in evaluation mode, and how it is fed and weighed."""

    module: torch.nn.Module
    """(b, 3, S, S) normalised float32 -> (b, C) logits."""
    mean: Triple
    std: Triple
    weight: float
    """Share of the ensemble's probabilities; 1 of a single model."""


def networks_of(bundle: Bundle) -> tuple[Network, ...]:
    """The bundle's networks with their weights, on the CPU; BundleError where these do not fit the timm here."""
    manifest = bundle.manifest
    tensors = _tensors(bundle)
    if not manifest.members:
        steps = manifest.preprocessing
        return (Network(_network(bundle, manifest.config, tensors), steps.mean, steps.std, 1.0),)
    return tuple(
        Network(_network(bundle, member.config, _of_member(tensors, i)), member.mean, member.std, member.weight)
        for i, member in enumerate(manifest.members)
    )


def pack_members(members: Iterable[bytes]) -> bytes:
    """The weights of several models, safetensors each and taken one by one, as one."""
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


def _tensors(bundle: Bundle) -> Tensors:
    try:
        tensors: Tensors = safetensors.torch.load(bundle.model)
    except SafetensorError as error:
        raise BundleError(_misfit(bundle, bundle.manifest.config, error)) from None
    refuse_not_finite(tensors, str(bundle.model_file), "export another trial")
    return tensors


def refuse_not_finite(tensors: Tensors, source: str, way_out: str) -> None:
    """BundleError where a weight is NaN or infinite: such a network answers the same for every image."""
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


View = Callable[[Images], Images]
"""(b, S, S, 3) uint8 to the same."""

Tta = Literal["none", "mirror", "flips", "dihedral"]


def _turned(quarters: int, *, mirrored: bool) -> View:
    def view(images: Images) -> Images:
        seen = images[:, :, ::-1] if mirrored else images
        return np.ascontiguousarray(np.rot90(seen, quarters, axes=(1, 2)))

    return view


_DIHEDRAL = tuple(_turned(quarters, mirrored=mirrored) for mirrored in (False, True) for quarters in range(4))

VIEWS: dict[Tta, tuple[View, ...]] = {
    "none": _DIHEDRAL[:1],
    "mirror": _DIHEDRAL[0::4],
    "flips": _DIHEDRAL[0::2],
    "dihedral": _DIHEDRAL,
}
"""The image as it is comes first. `mirror` has left-right; `flips` left-right, up-down and both; `dihedral` all 8
symmetries of a square."""

_ALLOWED: dict[Symmetry, tuple[Tta, ...]] = {"none": ("none",), "mirror": ("none", "mirror"), "dihedral": tuple(VIEWS)}


def check_tta(tta: Tta, symmetry: Symmetry) -> None:
    """UsageError unless the labels of images survive the views of `tta`, by the `symmetry` that their model has."""
    if tta not in VIEWS:
        raise UsageError(f"tta is {tta!r}, but must be one of {', '.join(VIEWS)}")
    allowed = _ALLOWED[symmetry]
    if tta not in allowed:
        raise UsageError(
            f"--tta {tta} shows the model views that the labels of its images do not survive: it was trained with "
            f"symmetry {symmetry}; give --tta {' or '.join(allowed)}, or train with another --set symmetry"
        )


BATCH_SIZE = 256


class Model:
    """The classifier of a bundle, one network or an ensemble of several, on one device, in float32."""

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        self.bundle = bundle
        self.device = resolve_device(device or "auto")
        limit_threads()
        self.networks: tuple[Network, ...] = tuple(
            network._replace(module=network.module.to(self.device)) for network in networks_of(bundle)
        )
        """Each with its normalisation and its weight; the heaviest first."""

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
        """How the model was trained."""
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
        """What logits are divided by before they become probabilities; 1 where the bundle is not calibrated."""
        return self.bundle.manifest.temperature

    def predict(
        self, images: Inputs, *, batch_size: int = BATCH_SIZE, tta: Tta = "none", accuracy: float | None = None
    ) -> list[Prediction]:
        """One prediction per image, in order; DataError names the first that cannot be read.

        `images` is any number of paths, bytes of image files, open files, Pillow images, arrays or tensors, in a list
        or as they come: no more than `batch_size` are in memory. See `hpo.bundle.inputs`. With `accuracy`, those that
        are not sure enough for it abstain: see `abstention`, also for what it raises.
        """
        threshold = self.abstention(accuracy).threshold if accuracy is not None else 0.0
        found: list[Prediction] = []
        for names, pixels in batches_of(images, self.image_size, batch_size, self.white_level):
            found += predictions(names, self.probabilities_of([pixels], tta), self.classes, threshold)
        return found

    def logits(self, images: Inputs, *, batch_size: int = BATCH_SIZE) -> Logits:
        """(n, C) float32 for n images, read and resized `batch_size` at a time; DataError as in `predict`."""
        return self.logits_of(pixels for _, pixels in batches_of(images, self.image_size, batch_size, self.white_level))

    def logits_of(self, batches: Iterable[Images]) -> Logits:
        """(n, C) float32 of batches (b, S, S, 3) uint8 of the model's own image size, one at a time.

        Of an ensemble the logarithms of its members' mean probabilities.
        """
        if len(self.networks) == 1:
            found = self._network_logits(self.networks[0], batches)
        else:
            found = _joined([self._ensemble_logits(batch) for batch in batches])
        return found if len(found) else np.empty((0, len(self.classes)), dtype=np.float32)

    def probabilities_of(self, batches: Iterable[Images], tta: Tta = "none") -> Probabilities:
        """(n, C) float64: calibrated, and the mean over the views of `tta`; batches as in `logits_of`."""
        if tta == "none":
            return probabilities(self.logits_of(batches), self.temperature)
        rows = [self.calibrated(self.view_logits(batch, tta)) for batch in batches]
        return np.concatenate(rows) if rows else np.empty((0, len(self.classes)))

    def view_logits(self, batch: Images, tta: Tta) -> Logits:
        """(v, b, C) float32: logits of (b, S, S, 3) uint8 under each view of `tta`, the first as the image is.

        UsageError where the labels of the model's images do not survive these views.
        """
        check_tta(tta, self.config.symmetry)
        views = VIEWS[tta]
        return self.logits_of(view(batch) for view in views).reshape(len(views), len(batch), -1)

    def calibrated(self, view_logits: Logits) -> Probabilities:
        """(b, C) float64: the mean over the views of the calibrated probabilities of (v, b, C) logits."""
        mean: Probabilities = probabilities(view_logits, self.temperature).mean(axis=0)
        return mean

    def abstention(self, accuracy: float) -> Abstention:
        """Below which confidence to abstain so that answers are right in `accuracy` of the cases.

        Chosen on the bundle's validation predictions, without test-time augmentation, which must prove it with 95 %
        confidence. Raises BundleError where it holds none on plain images, UsageError for an accuracy that is none or
        that no threshold is sure to reach.
        """
        return abstention_of(self.bundle, accuracy)

    def _ensemble_logits(self, batch: Images) -> Logits:
        total = np.zeros((len(batch), len(self.classes)))
        for network, member in zip(self.networks, self.bundle.manifest.members, strict=True):
            total += member.weight * probabilities(self._network_logits(network, [batch]), member.temperature)
        return log_probabilities(total).astype(np.float32)

    def _network_logits(self, network: Network, batches: Iterable[Images]) -> Logits:
        return predict_logits(
            network.module, batches, mean=network.mean, std=network.std, device=self.device, precision="fp32"
        )  # fmt: skip


def _joined(rows: list[Logits]) -> Logits:
    return np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)


def load(path: str | Path, device: str | None = None) -> Model:
    """The classifier of the bundle at `path`, ready on `device` (auto, cpu, cuda, cuda:N; None is auto).

    Raises BundleError where the folder is not a bundle or is damaged, ModelError for an unknown backbone.
    """

    return Model(read_bundle(path), device)
