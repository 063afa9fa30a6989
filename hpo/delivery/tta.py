"""Test-time augmentation: the views under which a model looks at an image before its answers are averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError
from search_spaces import Symmetry

Images = npt.NDArray[np.uint8]
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
