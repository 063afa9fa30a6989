"""What the delivery commands say, in plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.evaluation.table import accuracy_line

if TYPE_CHECKING:
    from hpo.delivery.evaluate import Selection
    from hpo.delivery.retrain import Retrained
    from hpo.training import EpochResult


def epoch_line(result: EpochResult, epochs: int) -> str:
    """What one epoch of a retraining gave."""
    return (
        f"epoch {result.epoch}/{epochs}: train loss {result.train_loss:.4f}, "
        f"{result.images_per_second:,.0f} images/s, {result.seconds:.1f} s"
    )


def retrain_lines(out: Path | str, validation: Mapping[str, Any] | None, result: Retrained) -> list[str]:
    """What a retraining gave, beside what the trial had promised; `validation` is the trial's report."""
    lines = [f"{out}: trained on {result.images:,} images for {_epochs(result.manifest.epochs)}"]
    if validation:
        told = accuracy_line(validation["accuracy"], validation["interval"], validation["n"])
        lines.append(f"validation accuracy of the trial  {told}")
    if result.test is None:
        lines.append(
            "nothing has proved this model: the data has no test part; `hpo evaluate` it on images it has not seen"
        )
        return lines
    test = result.test
    lines.append(f"test accuracy of the new model    {accuracy_line(test.accuracy, test.interval, test.n)}")
    lines.append(openings_line(result.openings))
    return lines


def selection_lines(data: Path, selection: Selection, split: str | None) -> list[str]:
    """What a person should know about the images before believing the numbers."""
    lines = []
    if selection.name is None:
        asked = f", so --split {split} chooses nothing" if split else ""
        lines.append(f"{data} has no parts and is not the data of the bundle: all of it is evaluated{asked}")
    elif selection.own and selection.name != "test":
        lines.append(f"the {selection.name} part took part in making this model, and flatters it")
    if selection.unreadable:
        first = selection.unreadable[0]
        lines.append(
            f"{len(selection.unreadable)} images of {data} cannot be read, the first {first.name}: {first.reason}"
        )
    return lines


def openings_line(openings: int) -> str:
    """How much the test part has been looked at."""
    if openings == 1:
        return "the test part was opened for the first time"
    return f"the test part was opened {openings} times by now: its accuracy flatters a model chosen by it"


def _epochs(count: int) -> str:
    return "1 epoch" if count == 1 else f"{count} epochs"
