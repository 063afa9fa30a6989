"""Which backbones are baselines: the floor of a comparison (they are built in `hpo.training.baseline`)."""

from __future__ import annotations

BASELINES = ("random-guess", "majority-class")


def is_baseline(backbone: str) -> bool:
    """Whether `backbone` names a baseline, which takes no training."""
    return backbone in BASELINES
