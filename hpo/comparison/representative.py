"""One configuration that stands for a search space: its first known-good point, else the middle of its dimensions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from search_spaces import SearchSpace, TrialConfig

Scalar: TypeAlias = str | int | float | bool | None


def representative(space: SearchSpace) -> TrialConfig:
    """The first point of `space`, and the middle of every dimension that the point leaves open.

    The middle of a range is geometric where the range is logarithmic; of choices it is the one that stands first.
    """
    points = space.enqueue_points()
    return space.suggest(_Middle(points[0] if points else {}))


@dataclass(frozen=True)
class _Middle:
    """A trial that gives known values, and the middle of a dimension where there is none."""

    known: Mapping[str, Scalar]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self.known:
            return cast(float, self.known[name])
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return round(low + step * math.floor((middle - low) / step + 0.5), 12) if step else middle

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name in self.known:
            return cast(int, self.known[name])
        middle = math.sqrt(low * high) if log else (low + high) / 2
        return low + step * math.floor((middle - low) / step)

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return self.known[name] if name in self.known else choices[0]
