"""How long a score has stood still: what the plateau schedule and early stopping wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

BETTER = 1e-4
"""Least gain in score that counts as better."""


@dataclass(frozen=True)
class Standstill:
    """A value: each epoch gives the next one, so it is saved and restored as plain JSON."""

    best: float | None = None
    """Best score so far; None before the first."""
    epochs: int = 0
    """Epochs running without a better one."""

    def after(self, score: float) -> Standstill:
        """The standstill after an epoch with this score; larger is better."""
        if self.best is None or score > self.best + BETTER:
            return Standstill(score)
        return replace(self, epochs=self.epochs + 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standstill:
        """The standstill that `to_dict` wrote."""
        return cls(**values)
