"""A bundle's classifier, in memory and ready to predict.

model = hpo.load("final/")
for prediction in model.predict(["a.jpg", "b.jpg"]):
    print(prediction.name, prediction.label, prediction.probability)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError

from hpo.data import decode, fit_array
from hpo.errors import BundleError, DataError, ModelError
from hpo.search.device import resolve_device
from hpo.training.inference import predict_logits
from hpo.training.model import build_model
from search_spaces import TrialConfig

if TYPE_CHECKING:
    from hpo.delivery.bundle import Bundle

Images = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Inputs = Images | Sequence[Images] | Sequence[str | PathLike[str]]
"""(n, H, W, 3) uint8; or n arrays (H, W), (H, W, 3) or (H, W, 4) of any sizes; or n paths of image files."""

BATCH_SIZE = 256


@dataclass(frozen=True)
class Prediction:
    """What the model takes one image for."""

    name: str
    """Path or key of the image; its position where it came as an array."""
    label: str
    index: int
    """Position of `label` in the model's classes."""
    probability: float
    probabilities: dict[str, float]
    """Softmax of the logits, by class name."""


class Model:
    """The classifier of a bundle, on one device, in float32."""

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        self.bundle = bundle
        self.device = resolve_device(device or "auto")
        self._network = _network(bundle).to(self.device)

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

    def predict(self, images: Inputs, *, batch_size: int = BATCH_SIZE) -> list[Prediction]:
        """One prediction per image, in order; DataError names the first path that cannot be read."""
        return self.name_classes(_names(images), self.logits(images, batch_size=batch_size))

    def logits(self, images: Inputs, *, batch_size: int = BATCH_SIZE) -> Logits:
        """(n, C) float32 for n images, read and resized `batch_size` at a time; DataError as in `predict`."""
        _refuse_single(images)
        if not len(images):
            return np.empty((0, len(self.classes)), dtype=np.float32)
        return self.logits_of(self._batches(images, batch_size))

    def logits_of(self, batches: Iterable[Images]) -> Logits:
        """(n, C) float32 of batches (b, S, S, 3) uint8 of the model's own image size, one at a time."""
        steps = self.bundle.manifest.preprocessing
        return predict_logits(
            self._network, batches, mean=steps.mean, std=steps.std, device=self.device, precision="fp32"
        )  # fmt: skip

    def name_classes(self, names: Sequence[str], logits: Logits) -> list[Prediction]:
        """Predictions from n names and (n, C) float32 logits."""
        shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        rows = shifted / shifted.sum(axis=1, keepdims=True)
        return [self._prediction(name, row) for name, row in zip(names, rows.tolist(), strict=True)]

    def _prediction(self, name: str, row: list[float]) -> Prediction:
        index = max(range(len(row)), key=row.__getitem__)
        probabilities = dict(zip(self.classes, row, strict=True))
        return Prediction(name, self.classes[index], index, row[index], probabilities)

    def _batches(self, images: Inputs, batch_size: int) -> Iterator[Images]:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            yield np.stack([self._square(image) for image in batch])

    def _square(self, image: Any) -> Images:
        """One image as (S, S, 3) uint8."""
        if isinstance(image, np.ndarray):
            return fit_array(image, self.image_size)
        try:
            return decode(Path(image).read_bytes(), self.image_size)
        except (DataError, OSError) as error:
            raise DataError(f"{image}: {error}") from None


def _refuse_single(images: Inputs) -> None:
    """DataError for one path or one image where several are meant: its letters or rows are no images."""
    if isinstance(images, str | PathLike):
        raise DataError(f"{images} is one path, but a list is meant: [{str(images)!r}]")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise DataError(f"an array of shape {images.shape} is given, but must be (n, height, width, 3): add an axis")


def _network(bundle: Bundle) -> torch.nn.Module:
    """The bundle's network with its weights, in evaluation mode, on the CPU."""
    manifest = bundle.manifest
    try:
        network = build_model(manifest.config, len(manifest.classes), initialise=False).model
    except ModelError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
    try:
        network.load_state_dict(safetensors.torch.load(bundle.model))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{bundle.model_file} does not fit {manifest.config.backbone} of timm here "
            f"({reason}); install the versions that config.json names"
        ) from None
    return network.eval()


def _names(images: Inputs) -> list[str]:
    return [str(i) if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]
