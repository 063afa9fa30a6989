"""Finer maps from shifted images: shift-and-stitch (Long et al. 2015, section 3.2).

A network of stride 32 says where in an image of 96 pixels the evidence lies on a grid of 3 x 3. The same image moved by
fractions of the stride gives the values in between.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from hpo.explain.attribution import Attribution

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
