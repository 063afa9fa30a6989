"""A bundle's classifier, in memory and ready to predict.

model = hpo.load("final/")
for prediction in model.predict(["a.jpg", "b.jpg"]):
    print(prediction.name, prediction.label, prediction.probability)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from hpo.delivery.calibrate import abstention_of
from hpo.delivery.inputs import Images, Inputs, batches_of
from hpo.delivery.networks import Network, networks_of
from hpo.delivery.prediction import Prediction, predictions
from hpo.delivery.tta import VIEWS, Tta, check_tta
from hpo.evaluation.calibration import Abstention, Probabilities, log_probabilities, probabilities
from hpo.search.device import bound_threads, resolve_device
from hpo.training.inference import predict_logits
from search_spaces import TrialConfig

if TYPE_CHECKING:
    from hpo.delivery.bundle import Bundle

Logits = npt.NDArray[np.float32]

BATCH_SIZE = 256


class Model:
    """The classifier of a bundle, one network or an ensemble of several, on one device, in float32."""

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        self.bundle = bundle
        self.device = resolve_device(device or "auto")
        bound_threads()
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
        or as they come: no more than `batch_size` are in memory. See `hpo.delivery.inputs`. With `accuracy`, those that
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
