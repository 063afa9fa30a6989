"""What joining several trials of a study gave, whether by their probabilities or by their weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hpo.delivery.manifest import Manifest
from hpo.delivery.selection import Comparison
from hpo.evaluation.metrics import Report


@dataclass(frozen=True)
class Joined:
    """The bundle that was written, and what the joint model is worth beside the best trial alone."""

    manifest: Manifest
    """Of a single trial where no combination is better: stage `exported`."""
    best: int
    """The trial that is best alone on the validation part."""
    validation: Comparison
    """On the images that the choice was made by, so it flatters."""
    held_out: Comparison | None
    """Each half of the validation part under the choice made by the other half; None for too few images. What there was
    to choose from, the best trials and their best epochs, was found on all of them."""

    def metrics(self, report: Report) -> dict[str, Any]:
        """metrics.json of the bundle; `report` is the joint model's on the validation part."""
        held_out = asdict(self.held_out) if self.held_out else None
        joined = {"best_trial": self.best, "validation": asdict(self.validation), "held_out": held_out}
        return {"validation": report.to_dict(), "test": None, "test_openings": [], "joined": joined}
