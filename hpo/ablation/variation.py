"""The runs of an ablation: the whole configuration, and it without one part or two, each under every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hpo.ablation.parts import PARTS, Part, parts_of
from hpo.errors import UsageError
from search_spaces import Entry, Roster, TrialConfig

WHOLE = "everything"


@dataclass(frozen=True)
class Variation:
    """A configuration with some parts switched off."""

    without: tuple[str, ...]
    """Names of the parts; none for the whole."""
    config: TrialConfig

    @property
    def name(self) -> str:
        """`everything`, `without mixup`, `without mixup and ema`."""
        return f"without {' and '.join(self.without)}" if self.without else WHOLE

    def run(self, seed: int) -> str:
        """What its run under `seed` is called."""
        return f"{self.name}, seed {seed}"


def chosen_parts(config: TrialConfig, names: Sequence[str] = ()) -> list[Part]:
    """The parts of `config`, or those named; UsageError for one that is unknown or off."""
    there = {part.name: part for part in parts_of(config)}
    known = [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise UsageError(f"--parts {name}: no such part; there are {', '.join(known)}")
        if name not in there:
            raise UsageError(f"--parts {name}: it is off in this configuration, which has {', '.join(there)}")
    return [part for name, part in there.items() if not names or name in names]


def single_variations(config: TrialConfig, parts: Sequence[Part]) -> list[Variation]:
    """The whole configuration first, then it without each part; one that would change nothing is left out."""
    single = [Variation((part.name,), part.off(config)) for part in parts]
    return [Variation((), config), *(variation for variation in single if variation.config != config)]


def pair_variations(
    config: TrialConfig, parts: Sequence[Part], contributions: Mapping[str, float], count: int
) -> list[Variation]:
    """The `count` pairs of parts whose own contributions are largest, in size and together.

    A pair must be free of contradiction: each part still on without the other, and the order of no consequence.
    """
    known = [part for part in parts if part.name in contributions]
    pairs = [(a, b) for a, b in combinations(known, 2) if _independent(config, a, b)]
    pairs.sort(key=lambda pair: -sum(abs(contributions[part.name]) for part in pair))
    return [Variation((a.name, b.name), b.off(a.off(config))) for a, b in pairs[:count]]


def _independent(config: TrialConfig, a: Part, b: Part) -> bool:
    without_a, without_b = a.off(config), b.off(config)
    return b.on(without_a) and a.on(without_b) and b.off(without_a) == a.off(without_b)


def roster(name: str, variations: Sequence[Variation], seeds: int) -> Roster:
    """Every variation once under each seed, seed by seed."""
    entries = (Entry(variation.run(seed), variation.config, seed) for seed in range(seeds) for variation in variations)
    return Roster(name, f"{len(variations)} variations under {seeds} seeds", tuple(entries))
