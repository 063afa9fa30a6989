"""Weights from a file into a backbone: names brought together, the head left out, what did not load counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from hpo.errors import ModelError
from hpo.training.checkpoint import read_tensors, weights_digest

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""What wrappers put before the names of a backbone's tensors."""

ENOUGH = 0.9
"""Share of the backbone's tensors that must load."""

EXAMPLES = 3


@dataclass(frozen=True)
class WeightsReport:
    """What became of a weights file; counts are of tensors of the backbone."""

    file: str
    digest: str
    """sha256 of the file."""
    loaded: int
    total: int
    """Tensors that the backbone has."""
    missing: int
    """Of the backbone, not in the file."""
    unexpected: int
    """In the file, not of the backbone nor of its classifier."""
    mismatched: int
    """In both, with different shapes."""
    examples: tuple[str, ...] = ()
    """A few names of those that did not load."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "examples": list(self.examples)}

    def __str__(self) -> str:
        head = f"{self.file}: {self.loaded} of {self.total} tensors loaded"
        if not self.examples:
            return head
        left = f"{self.missing} missing, {self.mismatched} of another shape, {self.unexpected} not needed"
        return f"{head}; {left} ({', '.join(self.examples)} …)"


def load_weights(backbone: nn.Module, name: str, path: Path) -> WeightsReport:
    """Load `path` into `backbone`, a timm model called `name` that was built without a classifier.

    Raises ModelError when the file cannot be read, or fills less than 90 % of the backbone's tensors.
    """
    wanted = {key: value for key, value in backbone.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = _resampled(_renamed(read_tensors(path), wanted), backbone, wanted)
    fitting = {key: value for key, value in found.items() if key in wanted and value.shape == wanted[key].shape}
    report = _report(path, wanted, found, fitting, str(getattr(backbone, "pretrained_cfg", {}).get("classifier")))
    if report.loaded < ENOUGH * report.total:
        raise ModelError(
            f"weights {path} fit {report.loaded} of {report.total} tensors of {name}, but must fit "
            f"{ENOUGH:.0%}; give the weights of {name}, or the backbone that they are of"
        )
    if report.unexpected > (1 - ENOUGH) * report.total:
        raise ModelError(
            f"weights {path} fill {name}, but hold {report.unexpected} tensors more than its {report.total}: they are "
            "of a larger architecture; give the backbone that they are of"
        )
    backbone.load_state_dict(fitting, strict=False)
    return report


def _renamed(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    return {_bare(name, wanted): value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


def _bare(name: str, wanted: dict[str, Tensor]) -> str:
    """`name` without wrappers' prefixes; a name that the backbone itself has stays."""
    while name not in wanted:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def _resampled(found: dict[str, Tensor], backbone: nn.Module, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Position embeddings of a transformer at another image size, interpolated as timm does."""
    ours, theirs = wanted.get("pos_embed"), found.get("pos_embed")
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if (
        ours is None
        or theirs is None
        or grid is None
        or ours.ndim != 3
        or theirs.ndim != 3
        or ours.shape == theirs.shape
    ):
        return found
    prefix = ours.shape[1] - grid[0] * grid[1]
    side = round(max(theirs.shape[1] - prefix, 0) ** 0.5)
    if side * side != theirs.shape[1] - prefix:
        return found
    return {**found, "pos_embed": resample_abs_pos_embed(theirs, new_size=list(grid), num_prefix_tokens=prefix)}


def _report(
    path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor], fitting: dict[str, Tensor], classifier: str
) -> WeightsReport:
    missing = sorted(wanted.keys() - found.keys())
    mismatched = sorted((wanted.keys() & found.keys()) - fitting.keys())
    unexpected = sorted(name for name in found.keys() - wanted.keys() if not name.startswith((classifier, "head.")))
    return WeightsReport(
        file=str(path),
        digest=weights_digest(path),
        loaded=len(fitting),
        total=len(wanted),
        missing=len(missing),
        unexpected=len(unexpected),
        mismatched=len(mismatched),
        examples=tuple([*mismatched, *missing, *unexpected][:EXAMPLES]),
    )
