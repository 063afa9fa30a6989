"""Phases of a run: what changes on the way, for how many epochs.

A phase inherits what it does not set from the run. Its epochs are a share: where the run's `epochs` are given too, the
phases are scaled to add up to them, so that one recipe serves a run of three epochs and one of fifty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Optimiser = Literal["adamw", "rmsprop", "lion", "sgd", "adam", "nadam"]
Schedule = Literal["constant", "cosine", "cosine-restarts", "plateau"]
Unfreezing = Literal["at-once", "gradual"]

PHASE_KEY = re.compile(r"phase([1-9][0-9]?)\.(\w+)")
"""The flat name of a phase's field: `phase2.learning_rate`; phases count from 1, up to 99."""


class Phase(BaseModel):
    """Some epochs of a run, and what they change; None is what the run has."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    epochs: int = Field(ge=1, le=10_000, description="epochs; a share where those of the run are given too")
    unfreeze_depth: float | None = Field(None, ge=0, le=1, description="fraction of backbone blocks that train")
    unfreezing: Unfreezing | None = Field(
        None, description="gradual goes block by block from the depth of the phase before"
    )
    optimiser: Optimiser | None = Field(None, description="optimiser; keeps its state where it stays the same")
    learning_rate: float | None = Field(None, gt=0, le=100, description="peak learning rate of the head")
    backbone_lr_ratio: float | None = Field(
        None, gt=0, le=10, description="learning rate of the backbone over that of the head"
    )
    layer_decay: float | None = Field(None, gt=0, le=1, description="factor on the learning rate per block, going down")
    weight_decay: float | None = Field(None, ge=0, le=10, description="weight decay")
    schedule: Schedule | None = Field(None, description="learning-rate schedule; it begins anew with the phase")
    warmup: float | None = Field(None, ge=0, lt=1, description="fraction of the phase's steps spent in warm-up")
    restarts: int | None = Field(None, ge=1, le=20, description="warm restarts of `cosine-restarts`")


def folded(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the keys `phaseN.field` folded into the list `phases`; ValueError where a number is left out."""
    plain: dict[str, Any] = {}
    phases = {i: _plain(phase) for i, phase in enumerate(values.get("phases") or (), start=1)}
    for key, value in values.items():
        match = PHASE_KEY.fullmatch(key)
        if match:
            phases.setdefault(int(match[1]), {})[match[2]] = value
        elif key != "phases":
            plain[key] = value
    missing = next((n for n in range(1, max(phases, default=0) + 1) if "epochs" not in phases.get(n, {})), None)
    if missing is not None:
        raise ValueError(f"phase{missing}.epochs is missing, but every phase up to the last has its epochs")
    return {**plain, "phases": [phases[n] for n in sorted(phases)]} if phases else plain


def scaled(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `epochs` and those of the phases in agreement; ValueError for fewer epochs than phases.

    What pydantic refuses anyway (an `epochs` that is no number) is left to it.
    """
    phases = values.get("phases") or []
    shares = [_count(phase["epochs"]) for phase in phases]
    total = _count(values.get("epochs", sum(shares)))
    if not shares or not all(shares) or not total:
        return dict(values)
    if total < len(shares):
        raise ValueError(f"epochs is {total}, but must be at least {len(shares)}: one for each phase")
    epochs = apportioned(total, shares)
    return {**values, "epochs": total, "phases": [{**p, "epochs": n} for p, n in zip(phases, epochs, strict=True)]}


def apportioned(total: int, shares: Sequence[int]) -> list[int]:
    """`total` >= len(shares) in whole parts of at least 1, as near to the proportion of `shares` as that allows.

    Largest remainders; shares that add up to `total` stay as they are.
    """
    exact = [total * share / sum(shares) for share in shares]
    parts = [max(1, int(part)) for part in exact]
    while sum(parts) != total:
        step = 1 if sum(parts) < total else -1
        able = [i for i in range(len(parts)) if parts[i] + step >= 1]
        nearest = max(able, key=lambda i: step * (exact[i] - parts[i]))
        parts[nearest] += step
    return parts


def _count(value: Any) -> int:
    """A whole number above 0 as pydantic reads it, from text and floats too; 0 for what it refuses."""
    try:
        count = int(value)
    except (TypeError, ValueError):
        return 0
    return count if count > 0 and float(value) == count else 0


def _plain(phase: Any) -> dict[str, Any]:
    return phase.model_dump(exclude_none=True) if isinstance(phase, Phase) else dict(phase)
