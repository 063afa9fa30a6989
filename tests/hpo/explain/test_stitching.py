"""Shifted images give the values between the cells of a coarse map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hpo.explain.saliency import shifts_for, stitched

CELL, SIDE = 8, 3
SIZE = CELL * SIDE


class Means:
    """The mean of the first channel in each cell: what lies there, exactly."""

    name = "means"
    side = SIDE

    def __call__(self, inputs: Tensor, classes: Tensor) -> Tensor:
        return functional.avg_pool2d(inputs[:, :1], CELL)


@pytest.mark.parametrize(
    ("side", "shifts"), [(1, 4), (2, 4), (3, 4), (4, 3), (6, 2), (7, 2), (12, 1), (14, 1), (40, 1)]
)
def test_only_coarse_maps_are_refined(side: int, shifts: int) -> None:
    assert shifts_for(side) == shifts


def test_one_shift_gives_the_unshifted_map() -> None:
    inputs = torch.randn(2, 3, SIZE, SIZE)
    classes = torch.zeros(2, dtype=torch.int64)
    assert torch.equal(stitched(Means(), inputs, classes, 1), Means()(inputs, classes))


@pytest.mark.parametrize("shifts", [2, 4])
def test_the_values_are_those_in_between(shifts: int) -> None:
    inputs = torch.randn(2, 3, SIZE, SIZE)
    found = stitched(Means(), inputs, torch.zeros(2, dtype=torch.int64), shifts)
    assert found.shape == (2, 1, SIDE * shifts, SIDE * shifts)
    step = CELL // shifts
    reach = round((shifts - 1) / 2 * step)
    padded = functional.pad(inputs[:, :1], (reach,) * 4, mode="replicate")
    expected = functional.avg_pool2d(padded, CELL, stride=1)
    offsets = [round((i - (shifts - 1) / 2) * step) for i in range(shifts)]
    rows = [reach + cell * CELL + offset for cell in range(SIDE) for offset in offsets]
    assert torch.allclose(found, expected[:, :, rows][:, :, :, rows], atol=1e-5)


def test_a_spot_between_the_cells_is_found() -> None:
    inputs = torch.zeros(1, 3, SIZE, SIZE)
    inputs[..., 10:12, 6:8] = 1  # in the first column of cells, at its right border
    classes = torch.zeros(1, dtype=torch.int64)
    fine = stitched(Means(), inputs, classes, 4)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    middle = [(fine * axis).sum() / fine.sum() for axis in (rows, columns)]
    cell = CELL / 4
    assert [float((place + 0.5) * cell) for place in middle] == pytest.approx([11, 7], abs=cell)
