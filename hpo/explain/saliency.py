"""Heat maps of a model: the evidence for a class at each place of an image.

A network of stride 32 gives a grid of 3 x 3 for an image of 96 pixels. Shift-and-stitch (Long et al. 2015, section 3.2)
makes the map finer: the same image moved by fractions of the stride gives the values in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hpo.augmentation.background import with_background
from hpo.bundle.model import Model, Network
from hpo.data.dataset import Images
from hpo.errors import DataError
from hpo.explain.mask import Heat
from hpo.explain.methods import Attribution, Method, attribution_for
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.memory import in_pieces

BATCH = 16
"""Images at a time; each needs memory for the activations of a backward pass."""

FINE = 12
"""Cells along an axis that suffice; the maps of VGG, on which Grad-CAM was introduced, have 14."""

MOST_SHIFTS = 4
"""Shifts along an axis."""


def saliency(model: Model, images: Images, *, classes: Sequence[int] | None = None, method: Method = "auto") -> Heat:
    """Return (n, S, S) float32 heat maps of `images` (n, S, S, 3) uint8, S the model's image size.

    They show the evidence for `classes` (n positions in `model.classes`; None means the predicted ones), scaled to
    [0, 1] for each image; all 0 without evidence for the class. The heat map of an ensemble is the weighted mean over
    its members. Raises DataError for images of another size and unknown classes, ModelError as `attribution_for` does.
    """
    _check_inputs(model, images, classes)
    if classes is None:
        classes = model.logits_of([images]).argmax(axis=1).tolist() if len(images) else []
    return Saliency.of(model.networks, model.image_size, model.device, method)(images, classes)


@dataclass(frozen=True)
class Saliency:
    """The attributions of one network, or of the members of an ensemble."""

    networks: tuple[Network, ...]
    attributions: tuple[Attribution, ...]
    """One for each network."""
    device: torch.device
    fine: bool = True
    """Whether coarse maps are refined by shifted images."""

    @classmethod
    def of(
        cls, networks: Sequence[Network], size: int, device: str, method: Method = "auto", *, fine: bool = True
    ) -> Saliency:
        """Return it for images of `size` pixels, networks moved to `device`; raises ModelError as `attribution_for`."""
        place = torch.device(device)
        moved = tuple(network._replace(module=network.module.to(place).eval()) for network in networks)
        found = tuple(attribution_for(network.module, size, place, method) for network in moved)
        return cls(moved, found, place, fine)

    @property
    def method(self) -> str:
        """Names of the methods: «grad-cam», or «grad-cam, rollout» for a mixed ensemble."""
        return ", ".join(sorted({attribution.name for attribution in self.attributions}))

    def __call__(self, images: Images, classes: Sequence[int]) -> Heat:
        """Return (n, S, S) float32 in [0, 1] for `images` (n, S, S, 3) uint8 and n `classes`."""
        total = np.zeros(images.shape[:3], np.float32)
        for network, attribution in zip(self.networks, self.attributions, strict=True):
            total += network.weight * self._heat(network, attribution, images, classes)
        return _scaled(total)

    def _heat(self, network: Network, attribution: Attribution, images: Images, classes: Sequence[int]) -> Heat:
        normalise = Normaliser(network.mean, network.std, self.device, ComputeFormat())
        targets = torch.as_tensor(classes, dtype=torch.int64)
        shifts = shifts_for(attribution.side) if self.fine else 1

        def forward(rows: Tensor) -> Tensor:
            seen = with_background(images[rows.cpu().numpy()], network.background)
            inputs = normalise(torch.from_numpy(seen).to(self.device))
            return stitched(attribution, inputs, targets[rows.cpu()].to(self.device), shifts).relu()

        maps = [_enlarged(coarse, images.shape[1]) for coarse in in_pieces(forward, self._rows(len(images)))]
        return _scaled(np.concatenate(maps)) if maps else np.zeros(images.shape[:3], np.float32)

    def _rows(self, count: int) -> Iterator[Tensor]:
        """Yield the row numbers of `count` images, BATCH at a time."""
        # On the device, so that `in_pieces` watches its memory.
        for start in range(0, count, BATCH):
            yield torch.arange(start, min(start + BATCH, count), device=self.device)


def shifts_for(side: int) -> int:
    """Return the shifts along each axis that refine a grid of `side` cells to FINE, at most MOST_SHIFTS."""
    return min(MOST_SHIFTS, math.ceil(FINE / side))


def stitched(attribution: Attribution, inputs: Tensor, classes: Tensor, shifts: int) -> Tensor:
    """Return (b, 1, k h, k h) from the k k maps (b, 1, h, h) of shifted `inputs` (b, 3, S, S), k = `shifts`.

    Shifts are spread evenly around 0 within half a cell; uncovered pixels repeat those of the border.
    """
    size = inputs.shape[-1]
    cell = size / attribution.side
    offsets = [round((i - (shifts - 1) / 2) * cell / shifts) for i in range(shifts)]
    reach = max(offsets)
    padded = functional.pad(inputs, (reach,) * 4, mode="replicate")
    starts = [reach + offset for offset in offsets]
    maps = [
        attribution(padded[:, :, top : top + size, left : left + size], classes) for top in starts for left in starts
    ]
    return _interleaved(torch.stack(maps), shifts)


def _interleaved(maps: Tensor, shifts: int) -> Tensor:
    """Return (b, 1, h k, h k) from (k k, b, 1, h, h), row by row of shifts: the k x k values of a cell are adjacent."""
    side = maps.shape[-1]
    images = maps.shape[1]
    grid = maps.reshape(shifts, shifts, images, side, side).permute(2, 3, 0, 4, 1)
    return grid.reshape(images, 1, side * shifts, side * shifts)


def _enlarged(coarse: Tensor, size: int) -> Heat:
    """Return maps (b, 1, h, h) as (b, size, size)."""
    fine = functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return np.asarray(fine[:, 0].cpu().numpy(), np.float32)


def _scaled(heat: Heat) -> Heat:
    """Return each map divided by its maximum; a map of zeros is unchanged."""
    highest = heat.max(axis=(1, 2), keepdims=True, initial=0)
    scaled: Heat = np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)
    return scaled


def _check_inputs(model: Model, images: Images, classes: Sequence[int] | None) -> None:
    shape = (model.image_size, model.image_size, 3)
    if images.ndim != 4 or images.shape[1:] != shape or images.dtype != np.uint8:
        raise DataError(
            f"images are {images.dtype} {images.shape}, but must be uint8 (n, {', '.join(map(str, shape))}): "
            "`hpo.data.fit_array` brings them to that size"
        )
    if classes is None:
        return
    if len(classes) != len(images):
        raise DataError(f"{len(classes)} classes are given for {len(images)} images; give one for each")
    wrong = [number for number in classes if not 0 <= number < len(model.classes)]
    if wrong:
        raise DataError(f"class {wrong[0]} is asked for, but the model's are 0 to {len(model.classes) - 1}")
