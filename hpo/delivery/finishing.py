"""After the search, for free: a better model from what a study has stored (`hpo export-best --finish`).

Each step (`hpo.delivery.finishing_steps`) is chosen by one half of the validation images and measured on the other, and
the other way around, so that all images measure it and none of them has chosen what it measures. It is taken if it
gains more than noise over the model so far, on the same images; then all images choose once more, and the next step
starts from there. Steps that cost several forward passes for a prediction come last, and one of them at most is taken.

The best trial itself was chosen by all these images, which makes it seem better than it is, and a step worse.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from hpo.bundle.stored_metrics import validated
from hpo.delivery.finishing_steps import SEVERAL, SINGLE
from hpo.delivery.finishing_task import ChosenModel, FinishingStep, FinishingTask, OutOfTime
from hpo.delivery.validation_images import Half
from hpo.evaluation.metrics import Logits
from hpo.evaluation.paired_difference import PairedDifference, critical

FINISHING = "finishing"
"""The key in metrics.json."""

FinishMode = str
"""all, single or none."""


@dataclass(frozen=True)
class TriedStep:
    """A step of finishing: what it gave, and whether it was taken."""

    name: str
    taken: bool
    why: str = ""
    """Why it was not tried, or not taken; "" where it was taken."""
    choice: str = ""
    """The choice: by all images if it was taken, else by either half."""
    before: float | None = None
    """The value of the model so far; None where the step was not tried."""
    after: float | None = None
    """The value after the step, on images that have not chosen it."""
    error: float | None = None
    """Standard error of the difference, in shares of 1."""
    forwards: int = 1
    """Forward passes that a prediction takes after the step."""
    seconds: float = 0.0

    @property
    def gain(self) -> float | None:
        """The difference of the values; None where the step was not tried."""
        return None if self.after is None or self.before is None else self.after - self.before


@dataclass(frozen=True)
class Finishing:
    """All that was tried after the search, on which images, and what of it was taken."""

    mode: str
    reason: str = ""
    """Why nothing was tried; "" where something was."""
    images: int = 0
    """Validation images."""
    altered: int = 0
    """Altered ones of them."""
    units: int = 0
    """Independent ones: copies of a picture and images of a group count as one."""
    metric: str = ""
    weight: float = 0.0
    """Weight of the altered images in the value."""
    required: float = 0.0
    """Standard errors by which a step must gain: 95 % confidence over all steps that are tried (Bonferroni)."""
    tried: tuple[TriedStep, ...] = ()
    seconds: float = 0.0
    allowed: float = 0.0
    """Seconds that it might take."""

    @property
    def taken(self) -> tuple[TriedStep, ...]:
        """The steps that were taken, in their order."""
        return tuple(one for one in self.tried if one.taken)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; `from_dict(to_dict(x)) == x`."""
        return {**asdict(self), "tried": [{**asdict(one), "gain": one.gain} for one in self.tried]}

    @classmethod
    def from_dict(cls, values: Any, source: str) -> Finishing:
        """Return what metrics.json holds; BundleError, naming `source`, for anything else."""
        return validated(TypeAdapter(cls), values, source, FINISHING)


class FinishedChoice(NamedTuple):
    """The model that finishing ends with."""

    finishing: Finishing
    choice: ChosenModel
    """As all validation images choose it."""
    crossed: Logits
    """(n + m, C): each image by the model that the other half chooses."""


class _State(NamedTuple):
    """The model so far, as each half of the images chooses it, and as all of them do."""

    first: ChosenModel
    second: ChosenModel
    whole: ChosenModel

    def crossed(self, task: FinishingTask) -> Logits:
        """Return (n + m, C): each image by the model that the other half chooses."""
        return task.images.crossed(self.first.logits, self.second.logits)


class _MeasuredStep(NamedTuple):
    """A step, measured on images that have not chosen it."""

    step: FinishingStep
    first: ChosenModel
    second: ChosenModel
    difference: PairedDifference
    seconds: float

    @property
    def words(self) -> str:
        """The choices of both halves."""
        return " / ".join(dict.fromkeys(one.words or "as it was" for one in (self.first, self.second)))


def finish(task: FinishingTask, mode: FinishMode) -> FinishedChoice:
    """Try every step that `mode` allows, and return the model with those that help by more than noise."""
    return _Run(task, mode).finish()


def try_alone(task: FinishingTask, kind: type[FinishingStep]) -> FinishedChoice | str:
    """Return the model that one step alone gives, whether it helps or not; or why it cannot be tried.

    It is for measuring what a step is worth on other images. Raises OutOfTime as the steps do.
    """
    run = _Run(task, "all")
    step = kind(task)
    found = run.measure(step)
    if found is None:
        return run.tried[-1].why
    everything: Half = np.ones(len(task.images.val), dtype=np.bool_)
    whole = step.choose(everything, run.state.whole)
    run.tried.append(run.record(found, whole, found))
    done = Finishing("all", **task.images.measured.to_dict(), tried=tuple(run.tried))
    return FinishedChoice(done, whole, task.images.crossed(found.first.logits, found.second.logits))


class _Run:
    """One finishing, step after step."""

    def __init__(self, task: FinishingTask, mode: FinishMode) -> None:
        self._task, self._mode = task, mode
        start = ChosenModel(task.logits, lambda: task.tensors)
        self.state = _State(start, start, start)
        self._single = [kind(task) for kind in SINGLE]
        self._several = [kind(task) for kind in SEVERAL] if mode == "all" else []
        steps = [*self._single, *self._several]
        # What the time does not suffice for counts too: the number must not depend on the machine.
        self._required = critical(sum(not step.refusal(start) for step in steps))
        self.tried: list[TriedStep] = []

    def finish(self) -> FinishedChoice:
        """Try the steps of one forward pass one after another, then those of several against what these have given."""
        for step in self._single:
            self._try_single(step)
        self._try_several()
        task = self._task
        measured = task.images.measured.to_dict()
        found = Finishing(
            mode=self._mode, **measured, required=self._required, tried=self._in_order(),
            seconds=task.budget.spent, allowed=task.budget.seconds,
        )  # fmt: skip
        return FinishedChoice(found, self.state.whole, self.state.crossed(task))

    def _in_order(self) -> tuple[TriedStep, ...]:
        """Return what was tried, in the order of the steps: those that were not tried are recorded first."""
        order = [step.name for step in (*self._single, *self._several)]
        return tuple(sorted(self.tried, key=lambda one: order.index(one.name)))

    def _try_single(self, step: FinishingStep) -> None:
        measured = self.measure(step)
        if measured is not None:
            self._take([measured])

    def _try_several(self) -> None:
        self._take([found for step in self._several if (found := self.measure(step)) is not None])

    def measure(self, step: FinishingStep) -> _MeasuredStep | None:
        """Let each half choose, and measure both choices on the other half; None where that is not possible."""
        begun, state, images = time.monotonic(), self.state, self._task.images
        why = next(filter(None, map(step.refusal, dict.fromkeys(state))), "")
        if why:
            self.tried.append(TriedStep(step.name, taken=False, why=f"not tried: {why}"))
            return None
        try:
            first, second = (
                step.choose(half, before)
                for half, before in zip(images.halves, (state.first, state.second), strict=True)
            )
        except OutOfTime:
            seconds = time.monotonic() - begun
            self.tried.append(TriedStep(step.name, taken=False, why="the time was up", seconds=seconds))
            return None
        after = images.crossed(first.logits, second.logits)
        difference = images.measured.difference(state.crossed(self._task), after)
        return _MeasuredStep(step, first, second, difference, time.monotonic() - begun)

    def _take(self, found: list[_MeasuredStep]) -> None:
        """Take the one that gains most, if any gains more than noise; the others are recorded as not taken."""
        helping = [one for one in found if one.difference.exceeds(self._required)]
        best = max(helping, key=lambda one: one.difference.gain, default=None)
        for one in found:
            self.tried.append(self.record(one, self._whole(one) if one is best else None, best))

    def _whole(self, one: _MeasuredStep) -> ChosenModel | None:
        """Let all images choose, and go on from there; None where they leave the model as it was, or the time is up."""
        everything: Half = np.ones(len(self._task.images.val), dtype=np.bool_)
        try:
            whole = one.step.choose(everything, self.state.whole)
        except OutOfTime:
            return None
        if whole.logits is self.state.whole.logits:
            return None
        self.state = _State(one.first, one.second, whole)
        return whole

    def record(self, one: _MeasuredStep, whole: ChosenModel | None, best: _MeasuredStep | None) -> TriedStep:
        difference = one.difference
        if whole is not None:
            why = ""
        elif one is best:
            why = "the time was up, or all images together choose none"
        elif difference.exceeds(self._required):
            why = f"{best.step.name if best else 'another'} gains more"
        else:
            why = "no gain" if difference.gain <= 0 else "within noise"
        forwards = max(choice.forwards for choice in ([whole] if whole is not None else [one.first, one.second]))
        return TriedStep(
            one.step.name, taken=whole is not None, why=why, choice=whole.words if whole is not None else one.words,
            before=difference.before, after=difference.after, error=difference.error, forwards=forwards,
            seconds=one.seconds,
        )  # fmt: skip


def finishing_of(metrics: Mapping[str, Any], source: str) -> Finishing | None:
    """Return what a bundle says of its finishing; None where it was not finished."""
    stored = metrics.get(FINISHING)
    return Finishing.from_dict(stored, source) if stored is not None else None
