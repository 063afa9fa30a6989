"""The form of a family of corruptions: named functions of an image, each in five severities.

There are two families. Each holds its magnitudes by itself and imports nothing of the other: those of
`hpo.corruptions` may be used while a model is searched for, those of `hpo.unseen_corruptions` only measure it later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hpo.errors import UsageError

Image = npt.NDArray[np.uint8]

Corruption = Callable[[Image, int, np.random.Generator], Image]
"""Takes an image (S, S, 3) uint8, a step from 0 to 4 and a generator; returns a new image of that shape."""

FamilyName = Literal["seen", "unseen"]
"""Whether a search may see the corruptions of a family."""

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class CorruptionFamily:
    """Corruptions that measure models together."""

    name: FamilyName
    version: int
    """It goes up with any change of their results."""
    functions: Mapping[str, Corruption]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the corruptions, in the order in which results are shown."""
        return tuple(self.functions)

    def corrupt(self, image: Image, kind: str, severity: int, rng: np.random.Generator) -> Image:
        """Return a new image (S, S, 3) uint8 RGB with one of the `kinds` at a severity from 1 to 5.

        Raise UsageError for another kind or severity.
        """
        if kind not in self.functions:
            raise UsageError(f"corruption is {kind!r}, but must be one of {', '.join(self.kinds)}")
        if severity not in SEVERITIES:
            raise UsageError(f"severity is {severity}, but must be a whole number from 1 to {len(SEVERITIES)}")
        return np.ascontiguousarray(self.functions[kind](image, severity - 1, rng))


def rounded(values: npt.NDArray[np.float32]) -> Image:
    """Return values of pixels as an image: rounded, and clipped at 0 and 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
