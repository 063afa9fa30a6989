"""Test-time augmentation: the views under which a model looks at an image before its answers are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
View = Callable[[Images], Images]
"""(b, S, S, 3) uint8 to the same."""
Tta = Literal["none", "flips", "dihedral"]


def _turned(quarters: int, *, mirrored: bool) -> View:
    def view(images: Images) -> Images:
        seen = images[:, :, ::-1] if mirrored else images
        return np.ascontiguousarray(np.rot90(seen, quarters, axes=(1, 2)))

    return view


_DIHEDRAL = tuple(_turned(quarters, mirrored=mirrored) for mirrored in (False, True) for quarters in range(4))

VIEWS: dict[Tta, tuple[View, ...]] = {
    "none": _DIHEDRAL[:1],
    "flips": _DIHEDRAL[0::2],
    "dihedral": _DIHEDRAL,
}
"""The image as it is comes first. `flips` has left-right, up-down and both; `dihedral` all 8 symmetries of a square."""
