"""The line to beat: the best frozen probe of a study, and whether tuning is above it by more than the noise.

Both are compared on the same images, as the trials of a study are (`hpo.evaluation.best_of_many`). The best of many
trials is partly the best by chance, so its lead must be larger than the largest of so many leads is by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import FrozenTrial

from hpo.evaluation.best_of_many import Lead, MeasuredValue, lead_of
from hpo.evaluation.outcomes import Outcomes
from hpo.search.trial_record import TrialRecord, best_probe, is_probe, outcomes_of

RISK = 0.05
"""Probability, at most, that tuning is said to beat the probe where no trial is better (Bonferroni over the trials)."""


@dataclass(frozen=True)
class LineToBeat:
    """The best frozen probe of a study, and the best trained trial beside it."""

    trial: int
    backbone: str
    value: float
    seconds: float
    """Seconds that it took: features, linear head and validation."""
    compared: int = 0
    """Number of trained trials with a value."""
    tuned: int | None = None
    """Number of the best complete trained trial; None before there is one."""
    gain: float | None = None
    """Value of that trial above that of the probe."""
    error: float | None = None
    """Standard error of the gain, with the images paired; None where it is not known."""
    chance: float | None = None
    """Probability of such a gain, or a larger one, of one trial that is as good as the probe; None where not known."""

    @property
    def beaten(self) -> bool | None:
        """Whether tuning beats the probe by more than the noise; None where that is not known."""
        if self.gain is None or self.chance is None:
            return None
        return self.gain > 0 and self.chance * max(1, self.compared) <= RISK

    def lines(self, value_name: str) -> list[str]:
        """Return the line to beat in words, and whether tuning beats it, once a trial is trained."""
        time = f"{self.seconds:.0f} s" if self.seconds < 100 else f"{self.seconds / 60:.1f} min"
        found = f"frozen probe of {self.backbone} (trial {self.trial}): {value_name} {self.value:.4f} in {time}"
        return [f"line to beat: {found}", *([self.verdict] if self.gain is not None else [])]

    @property
    def verdict(self) -> str:
        """The gain with its standard error in words; "" before a trial is trained."""
        if self.gain is None:
            return ""
        noise = "" if self.error is None else f" ± {self.error:.4f}"
        if self.beaten:
            return f"tuning (trial {self.tuned}) beats the probe by {self.gain:.4f}{noise}"
        if self.gain <= 0:
            below = f", {-self.gain:.4f}{noise} below it" if self.gain else ""
            return f"tuning does not beat the probe: the best trained trial is {self.tuned}{below}"
        if self.beaten is None:
            return f"tuning (trial {self.tuned}) is {self.gain:.4f} above the probe; how much of it is noise is unknown"
        return (
            f"tuning does not beat the probe by more than the noise ({self.gain:.4f}{noise} with trial {self.tuned}, "
            f"the best of {self.compared})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**vars(self), "beaten": self.beaten}


class LineReader:
    """Reads the line to beat of one study repeatedly; two finished trials are compared once."""

    def __init__(self, metric: str, robustness: float) -> None:
        self._metric, self._robustness = metric, robustness
        self._leads: dict[tuple[int, int], Lead | None] = {}

    def __call__(self, ranked: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]) -> LineToBeat | None:
        """Return the best probe of `ranked`, complete trials with the best first, beside their best trained trial.

        None where no probe is complete. `trials` are all of the study.
        """
        probe = best_probe(ranked)
        if probe is None or probe.value is None:
            return None
        record = TrialRecord.of(probe)
        found = LineToBeat(probe.number, str(record.probe), probe.value, record.seconds or 0.0)
        tuned = next((trial for trial in ranked if not is_probe(trial)), None)
        if tuned is None or tuned.value is None:
            return found
        compared = sum(not is_probe(trial) and bool(trial.intermediate_values) for trial in trials)
        found = replace(found, compared=compared, tuned=tuned.number, gain=tuned.value - probe.value)
        lead = self._lead(tuned, probe)
        return replace(found, error=lead.error, chance=lead.chance) if lead else found

    def _lead(self, tuned: FrozenTrial, probe: FrozenTrial) -> Lead | None:
        """Return the lead of a trial over the probe; None where they are not known to be on the same images."""
        key = tuned.number, probe.number
        if key not in self._leads:
            ours, theirs = outcomes_of(tuned), outcomes_of(probe)
            same = len(ours) == len(theirs) > 0 and all(a.same_images(b) for a, b in zip(ours, theirs, strict=True))
            self._leads[key] = self._paired(ours, theirs) if same else None
        return self._leads[key]

    def _paired(self, ours: Sequence[Outcomes], theirs: Sequence[Outcomes]) -> Lead:
        return lead_of(*(MeasuredValue.of(one, self._metric, self._robustness) for one in (ours, theirs)))
