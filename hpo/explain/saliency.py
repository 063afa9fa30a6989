"""Finer maps from shifted images: shift-and-stitch (Long et al. 2015, section 3.2).

A network of stride 32 says where in an image of 96 pixels the evidence lies on a grid of 3 x 3. The same image moved by
fractions of the stride gives the values in between.

The heat maps of a model: where the evidence for a class lies in each image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hpo.bundle.model import Model, Network
from hpo.data.dataset import Images
from hpo.errors import DataError
from hpo.explain.mask import Heat
from hpo.explain.methods import Attribution, Method, attribution_for
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.memory import in_pieces

FINE = 12
"""Cells along an axis that are fine enough; the maps of VGG, on which Grad-CAM was introduced, have 14."""

MOST_SHIFTS = 4
"""Along an axis."""


def shifts_for(side: int) -> int:
    """Shifts along each axis that make a grid of `side` cells fine, within MOST_SHIFTS."""
    return min(MOST_SHIFTS, math.ceil(FINE / side))


def stitched(attribution: Attribution, inputs: Tensor, classes: Tensor, shifts: int) -> Tensor:
    """(b, 1, k h, k h) of the k k maps (b, 1, h, h) of shifted `inputs` (b, 3, S, S), k = `shifts`.

    Shifts lie evenly about 0 within half a cell; what they uncover repeats the border's pixels.
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
    """(k k, b, 1, h, h), row by row of shifts -> (b, 1, h k, h k): every cell's k x k values side by side."""
    side = maps.shape[-1]
    images = maps.shape[1]
    grid = maps.reshape(shifts, shifts, images, side, side).permute(2, 3, 0, 4, 1)
    return grid.reshape(images, 1, side * shifts, side * shifts)


BATCH = 16
"""Images at a time: each keeps the activations of a backward pass."""


def saliency(model: Model, images: Images, *, classes: Sequence[int] | None = None, method: Method = "auto") -> Heat:
    """(n, S, S) float32 heat maps of `images` (n, S, S, 3) uint8, S the model's image size.

    The evidence for `classes` (n positions in `model.classes`; None: what the model predicts), scaled to [0, 1] for
    each image; all 0 where nothing speaks for the class. An ensemble's is the weighted mean of its members'. Raises
    DataError for images of another size and classes that are not there, ModelError as `attribution_for` does.
    """
    _check(model, images, classes)
    if classes is None:
        classes = model.logits_of([images]).argmax(axis=1).tolist() if len(images) else []
    return Saliency.of(model.networks, model.image_size, model.device, method)(images, classes)


@dataclass(frozen=True)
class Saliency:
    """How networks that vote together are explained."""

    networks: tuple[Network, ...]
    attributions: tuple[Attribution, ...]
    """One per network."""
    device: torch.device
    fine: bool = True
    """Whether coarse maps are made finer from shifted images."""

    @classmethod
    def of(
        cls, networks: Sequence[Network], size: int, device: str, method: Method = "auto", *, fine: bool = True
    ) -> Saliency:
        """For images of `size` pixels; the networks are moved to `device`. Raises ModelError as `attribution_for`."""
        place = torch.device(device)
        moved = tuple(network._replace(module=network.module.to(place).eval()) for network in networks)
        found = tuple(attribution_for(network.module, size, place, method) for network in moved)
        return cls(moved, found, place, fine)

    @property
    def method(self) -> str:
        """What is done, in words, as «grad-cam» or «grad-cam, rollout» of a mixed ensemble."""
        return ", ".join(sorted({attribution.name for attribution in self.attributions}))

    def __call__(self, images: Images, classes: Sequence[int]) -> Heat:
        """(n, S, S) float32 in [0, 1] of `images` (n, S, S, 3) uint8 for n `classes`."""
        total = np.zeros(images.shape[:3], np.float32)
        for network, attribution in zip(self.networks, self.attributions, strict=True):
            total += network.weight * self._heat(network, attribution, images, classes)
        return _scaled(total)

    def _heat(self, network: Network, attribution: Attribution, images: Images, classes: Sequence[int]) -> Heat:
        normalise = Normaliser(network.mean, network.std, self.device, ComputeFormat())
        targets = torch.as_tensor(classes, dtype=torch.int64)
        shifts = shifts_for(attribution.side) if self.fine else 1

        def forward(rows: Tensor) -> Tensor:
            inputs = normalise(torch.from_numpy(images[rows.cpu().numpy()]).to(self.device))
            return stitched(attribution, inputs, targets[rows.cpu()].to(self.device), shifts).relu()

        maps = [_enlarged(coarse, images.shape[1]) for coarse in in_pieces(forward, self._rows(len(images)))]
        return _scaled(np.concatenate(maps)) if maps else np.zeros(images.shape[:3], np.float32)

    def _rows(self, count: int) -> Iterator[Tensor]:
        """Rows of `count` images, BATCH at a time, on the device whose memory they stand for."""
        for start in range(0, count, BATCH):
            yield torch.arange(start, min(start + BATCH, count), device=self.device)


def _enlarged(coarse: Tensor, size: int) -> Heat:
    """(b, size, size) of maps (b, 1, h, h)."""
    fine = functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return np.asarray(fine[:, 0].cpu().numpy(), np.float32)


def _scaled(heat: Heat) -> Heat:
    """Each map over its maximum; one that is all 0 stays so."""
    highest = heat.max(axis=(1, 2), keepdims=True, initial=0)
    scaled: Heat = np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)
    return scaled


def _check(model: Model, images: Images, classes: Sequence[int] | None) -> None:
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
