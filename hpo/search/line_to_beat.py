"""The line to beat: the best frozen probe of a study, and whether tuning is above it by more than the noise.

The best of many trials is partly the best by chance. So its lead over the probe, whose standard error has the images of
both paired, must be as large as the largest of so many leads is by chance with RISK (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from optuna.trial import FrozenTrial

from hpo.search.trial_record import TrialRecord, best_probe, is_probe

RISK = 0.05
"""The risk that tuning is said to beat the probe where no trial is better than it."""


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

    @property
    def beaten(self) -> bool | None:
        """Whether tuning beats the probe by more than the noise; None where that is not known."""
        if self.gain is None or self.error is None:
            return None
        return self.gain > 0 and self.gain > self.error * NormalDist().inv_cdf(1 - RISK / max(1, self.compared))

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
        if self.error is None:
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
        return replace(found, compared=compared, tuned=tuned.number, gain=tuned.value - probe.value)
