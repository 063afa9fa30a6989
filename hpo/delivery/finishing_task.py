"""The objects that finishing works with: the trial, the images to choose by, the time, and the form of a step.

A step gets the model that some of the validation images have chosen in the steps before, and returns a better one, or
that model where it finds none. It knows nothing of the images that are to measure it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hpo.bundle.manifest import Finished, Manifest
from hpo.bundle.model import VIEWS, Tensors
from hpo.data.dataset import Dataset
from hpo.delivery.ensemble_candidates import EnsembleCandidates
from hpo.delivery.validation_images import Half, ValidationImages
from hpo.evaluation.metrics import Logits


class OutOfTime(Exception):  # noqa: N818 - no error: the step ends, and the table says so
    """The time for finishing is up."""


@dataclass
class Budget:
    """The time that finishing may take, in seconds of a clock that runs from the beginning."""

    seconds: float
    on_progress: Callable[[str, float], None] = lambda doing, left: None
    """Gets what comes next, in words, and the seconds that are left."""
    begun: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    def go_on(self, doing: str, share: float = 1.0) -> None:
        """Report what comes next; OutOfTime where no time is left, or a step has had its share of the whole."""
        spent = self.spent
        if spent >= share * self.seconds:
            raise OutOfTime
        self.on_progress(doing, self.seconds - spent)


@dataclass(frozen=True)
class FinishingTask:
    """A trial to finish, the trials that it may be joined with, and the images to choose by."""

    manifest: Manifest
    """The trial's, with the weights file by its name."""
    tensors: Tensors
    """The trial's."""
    logits: Logits
    """(n + m, C) of the trial, as the search has stored them."""
    dataset: Dataset
    images: ValidationImages
    cache: Path
    budget: Budget
    device: str = "cpu"
    candidates: EnsembleCandidates | None = None
    """The trial first; None where there is no other."""
    alone: str = ""
    """Why there is no other."""


@dataclass(frozen=True)
class ChosenMember:
    """A member of an ensemble."""

    candidate: int
    """Number among the candidates; 0 is the model of the steps before."""
    weight: float
    temperature: float


@dataclass(frozen=True, eq=False)
class ChosenModel:
    """A model that some of the validation images have chosen."""

    logits: Logits
    """(n + m, C) of all images."""
    read: Callable[[], Tensors]
    """Gives the weights of the network; of an ensemble those of its member that is no trial's."""
    words: str = ""
    """The choice of the last step, for the table; "" where it left the model as it was."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the manifest that differ from the trial's."""
    members: tuple[ChosenMember, ...] = ()
    """Those of an ensemble, heaviest first."""

    @property
    def forwards(self) -> int:
        """Forward passes that a prediction takes."""
        finished = self.changes.get("finished") or Finished()
        return max(1, len(self.members)) * len(VIEWS[finished.views])

    def changed(self, logits: Logits, read: Callable[[], Tensors], words: str, **changes: Any) -> ChosenModel:
        """Return the choice after one more change."""
        return ChosenModel(logits, read, words, {**self.changes, **changes}, self.members)

    def finished(self, **changes: Any) -> Finished:
        """Return the field `finished` of the manifest with some more changes."""
        return (self.changes.get("finished") or Finished()).model_copy(update=changes)


class FinishingStep(ABC):
    """One way to make the model better."""

    name: ClassVar[str]

    def __init__(self, task: FinishingTask) -> None:
        self.task = task

    @abstractmethod
    def refusal(self, before: ChosenModel) -> str:
        """Return why the step cannot be tried on this model; "" where it can."""

    @abstractmethod
    def choose(self, half: Half, before: ChosenModel) -> ChosenModel:
        """Return the model that `half` of the validation images chooses; OutOfTime where the time is up."""


class VariantStep(FinishingStep):
    """A step that measures some variants of a model, whichever images choose among them."""

    def __init__(self, task: FinishingTask) -> None:
        super().__init__(task)
        self._known: list[tuple[ChosenModel, list[ChosenModel]]] = []

    @abstractmethod
    def variants(self, before: ChosenModel) -> list[ChosenModel]:
        """Return the variants of a model, each measured on all images."""

    def choose(self, half: Half, before: ChosenModel) -> ChosenModel:
        """Return the variant of the largest merit on the half; the model itself where none is better."""
        options = [before, *self._variants_of(before)]
        merits = [self.task.images.merit(one.logits, half) for one in options]
        found = options[max(range(len(options)), key=merits.__getitem__)]
        return found if found is not before else before.changed(before.logits, before.read, "")

    def _variants_of(self, before: ChosenModel) -> list[ChosenModel]:
        """Compute the variants once: mostly both halves start from one model."""
        known = next((found for one, found in self._known if one.logits is before.logits), None)
        if known is None:
            known = self.variants(before)
            self._known.append((before, known))
        return known
