"""What came of an ablation: each part's contribution, and the interaction of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from hpo.ablation.contribution import Difference, Values, contribution, interaction
from hpo.ablation.parts import PARTS
from hpo.ablation.runs import Seen
from hpo.errors import HpoError


@dataclass(frozen=True)
class Line:
    """One part, or a pair of them."""

    parts: tuple[str, ...]
    instead: str
    """What stands in their place."""
    value: float | None
    """Mean metric without them; None where no run reached an epoch."""
    contribution: Difference | None
    interaction: Difference | None = None
    """Of a pair."""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`mixup`, or `mixup and ema`."""
        return " and ".join(self.parts)

    @property
    def judged(self) -> Difference | None:
        """What the verdict is about: a part's contribution, a pair's interaction."""
        return self.interaction if len(self.parts) == 2 else self.contribution

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "parts": list(self.parts),
            "instead": self.instead,
            "value": self.value,
            "contribution": self.contribution.to_dict() if self.contribution else None,
            "interaction": self.interaction.to_dict() if self.interaction else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Outcome:
    """An ablation's figures. The metric of a run is that of its best epoch, in all variations alike."""

    metric: str
    seeds: int
    whole: Values
    """The metric of the whole configuration, by seed."""
    parts: tuple[Line, ...]
    """Largest contribution first."""
    pairs: tuple[Line, ...] = ()
    """Largest interaction first, whichever its sign."""

    @property
    def contributions(self) -> dict[str, float]:
        """Mean contribution by part, of those that are known."""
        return {line.name: line.contribution.mean for line in self.parts if line.contribution}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "metric": self.metric,
            "seeds": self.seeds,
            "everything": {"mean": mean(self.whole.values()), "values": list(self.whole.values())},
            "parts": [line.to_dict() for line in self.parts],
            "pairs": [line.to_dict() for line in self.pairs],
        }


def outcome(metric: str, seeds: int, seen: Sequence[Seen]) -> Outcome:
    """Contributions and interactions of all that was run; HpoError where the whole configuration gave nothing."""
    runs = {one.variation.without: one for one in seen}
    whole = runs[()]
    if not whole.values:
        raise HpoError(f"the whole configuration gave no model, so there is nothing to compare with: {whole.notes[0]}")
    values = {parts: one.values for parts, one in runs.items()}
    lines = [_line(parts, values, one.notes) for parts, one in runs.items() if parts]
    parts = [line for line in lines if len(line.parts) == 1]
    pairs = [line for line in lines if len(line.parts) == 2]
    return Outcome(
        metric, seeds, whole.values,
        tuple(sorted(parts, key=lambda line: -_mean(line.contribution))),
        tuple(sorted(pairs, key=lambda line: -abs(_mean(line.interaction)))),
    )  # fmt: skip


def _line(parts: tuple[str, ...], values: Mapping[tuple[str, ...], Values], notes: tuple[str, ...]) -> Line:
    words = {part.name: part.without for part in PARTS}
    whole, without = values[()], values[parts]
    joint = interaction(whole, values[parts[:1]], values[parts[1:]], without) if len(parts) == 2 else None
    return Line(
        parts,
        "; ".join(words[part] for part in parts),
        mean(without.values()) if without else None,
        contribution(whole, without),
        joint,
        notes,
    )


def _mean(difference: Difference | None) -> float:
    """For sorting; what is not known comes last."""
    return difference.mean if difference else float("-inf")
