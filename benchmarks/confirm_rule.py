"""Simulate rules for the winner of a study whose best trials were trained again: which merit do they choose?

    python -m benchmarks.confirm_rule [--repeats 20000]

A trial's value is the merit of its configuration plus noise of standard deviation 1, independent for each training.
The merits of n trials lie below a ceiling by exponential amounts of mean `spread`: most of them are near the top, as in
a search that prunes. The K trials of the highest values are trained again once. `late` trials complete after that, such
as those of other workers, and stay unconfirmed. Printed for each rule, in standard deviations of the noise:

    lost      merit of the truly best of the n + late trials less the merit of the chosen one, mean over the repeats
    promised  the value that is shown for the winner less its merit: how much too good it looks

The rule «best value, K more» has no confirmation: the K trials are further ones of the search.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

SPREADS = (0.5, 1.0, 2.0, 4.0)
COUNTS = ((20, 3), (50, 3))
LATE = (0, 5)


@dataclass(frozen=True)
class Studies:
    """Simulated studies: (repeats, trials) arrays."""

    merit: Values
    first: Values
    """The value of each trial."""
    fresh: Values
    """The value under a fresh seed; NaN where it was not trained again."""

    @property
    def confirmed(self) -> npt.NDArray[np.bool_]:
        """Which trials were trained again."""
        return ~np.isnan(self.fresh)

    @property
    def mean(self) -> Values:
        """The mean of the values of each trial."""
        return np.where(self.confirmed, (self.first + np.nan_to_num(self.fresh)) / 2, self.first)

    @property
    def trainings(self) -> Values:
        """How often each was trained."""
        return 1.0 + self.confirmed

    @property
    def noise(self) -> Values:
        """(repeats, 1) the standard deviation of a value, as the pairs of a study estimate it."""
        half_squares = np.where(self.confirmed, (self.first - np.nan_to_num(self.fresh)) ** 2 / 2, 0.0)
        return np.asarray(np.sqrt(half_squares.sum(1, keepdims=True) / self.confirmed.sum(1, keepdims=True)))

    def lower(self, z: float) -> Values:
        """The lower bound of the mean, z standard errors below it."""
        return self.mean - z * self.noise / np.sqrt(self.trainings)

    @property
    def shrunk(self) -> Values:
        """The mean, drawn towards that of all trials as a normal distribution of merits would have it."""
        centre = self.first.mean(1, keepdims=True)
        between = np.maximum(self.first.var(1, keepdims=True) - self.noise**2, 1e-9)
        weight = between / (between + self.noise**2 / self.trainings)
        return np.asarray(centre + weight * (self.mean - centre))


def only(studies: Studies, values: Values) -> Values:
    """Return the values of the confirmed trials, minus infinity for the others."""
    return np.where(studies.confirmed, values, -np.inf)


RULES: dict[str, tuple[Callable[[Studies], Values], Callable[[Studies], Values]]] = {
    "best value": (lambda s: s.first, lambda s: s.first),
    "fresh value, of the confirmed": (lambda s: only(s, s.fresh), lambda s: s.fresh),
    "mean, of the confirmed": (lambda s: only(s, s.mean), lambda s: s.mean),
    "mean, of all": (lambda s: s.mean, lambda s: s.mean),
    "lower bound, z = 1": (lambda s: s.lower(1.0), lambda s: s.lower(1.0)),
    "lower bound, z = 1.645": (lambda s: s.lower(1.645), lambda s: s.lower(1.645)),
    "lower bound, z = 3": (lambda s: s.lower(3.0), lambda s: s.lower(3.0)),
    "shrunk mean": (lambda s: s.shrunk, lambda s: s.shrunk),
}
"""Rule -> what is maximised, and what is shown for the winner."""


def simulate(rng: np.random.Generator, repeats: int, trials: int, top: int, late: int, spread: float) -> Studies:
    """Return studies of `trials` trials, the best `top` trained again, and `late` ones that were not."""
    shape = (repeats, trials + late)
    merit = -spread * rng.exponential(size=shape)
    first, again = merit + rng.standard_normal(shape), merit + rng.standard_normal(shape)
    chosen = np.argsort(-first[:, :trials], axis=1)[:, :top]
    fresh = np.full(shape, np.nan)
    np.put_along_axis(fresh, chosen, np.take_along_axis(again, chosen, axis=1), axis=1)
    return Studies(merit, first, fresh)


def measured(studies: Studies, rule: str, ceiling: Values) -> tuple[float, float]:
    """Return what the rule loses and how much too good its winner looks."""
    maximised, shown = (function(studies) for function in RULES[rule])
    at = np.argmax(maximised, axis=1)[:, None]
    merit = np.take_along_axis(studies.merit, at, axis=1)[:, 0]
    promise = np.take_along_axis(shown, at, axis=1)[:, 0]
    return float(np.mean(ceiling - merit)), float(np.mean(promise - merit))


def main(repeats: int) -> None:
    """Print a table for each size of study."""
    rng = np.random.default_rng(0)
    for (trials, top), late in product(COUNTS, LATE):
        print(f"\n{trials} trials, the best {top} trained again, {late} late ones; lost / promised by spread\n")
        print(f"| rule | {' | '.join(f'{spread:g}' for spread in SPREADS)} |\n|---|{'---|' * len(SPREADS)}")
        drawn = [simulate(rng, repeats, trials, top, late, spread) for spread in SPREADS]
        more = [simulate(rng, repeats, trials + top, 1, late, spread) for spread in SPREADS]
        cells = {
            rule: [measured(studies, rule, studies.merit.max(1)) for studies in drawn] for rule in RULES
        }  # fmt: skip
        # With more trials the truly best one is better: the loss is counted from that of the smaller study.
        cells["best value, K more"] = [
            measured(larger, "best value", np.full(repeats, studies.merit.max(1).mean()))
            for studies, larger in zip(drawn, more, strict=True)
        ]
        for rule, values in cells.items():
            print(f"| {rule} | {' | '.join(f'{lost:.2f} / {promised:+.2f}' for lost, promised in values)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=20_000, help="simulated studies of each kind")
    main(parser.parse_args().repeats)
