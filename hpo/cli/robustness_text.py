"""`hpo evaluate --corrupted`: the measurement under corruptions, what it is relative to, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.errors import BundleError
from hpo.hints import hint

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.bundle.corrupted_records import BaselineErrors, RobustnessRecord
    from hpo.bundle.evaluate import Evaluation, Selection
    from hpo.bundle.model import Model
    from hpo.bundle.set_coverage import CopyScores, SetMeasurement
    from hpo.corruption_family import FamilyName
    from hpo.data import Part, Progress
    from hpo.evaluation.corrupted_copy import Condition
    from hpo.evaluation.robustness import RelativeErrors, Robustness

FAMILIES: Mapping[FamilyName, str] = {
    "seen": "corruptions that a search may see",
    "unseen": "corruptions that no search sees",
}

_FEW = 100
"""Images of a cell, below which one image more or less changes the second decimal of its accuracy."""


@dataclass(frozen=True)
class RobustnessResult:
    """A measurement under corruptions, and the one that its errors are relative to."""

    record: RobustnessRecord
    baseline_name: str
    """The bundle of the other model; empty where they are relative to the own error on the images as they are."""
    not_kept: str
    """Why the bundle does not keep the measurement; empty where it does."""

    @property
    def relative_to(self) -> str:
        """Name what the errors are relative to."""
        return f"those of {self.baseline_name}" if self.baseline_name else "its own on the images as they are"

    @cached_property
    def relative_errors(self) -> Mapping[str, RelativeErrors]:
        """The relative errors by family."""
        baseline = self.record.baseline
        return baseline.errors if baseline else self.record.result.relative_errors()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            **self.record.result.to_dict(),
            "relative_to": self.baseline_name or "clean",
            "relative_errors": {family: found.to_dict() for family, found in self.relative_errors.items()},
        }

    def lines(self, bundle: Path | str) -> list[str]:
        """Return the line on where the measurement is kept."""
        if self.not_kept:
            return [f"the measurement under corruptions is not kept in {bundle}: {self.not_kept}"]
        return [f"the measurement under corruptions is kept in {bundle}, where `hpo report` shows it"]


@dataclass(frozen=True)
class MeasuredBaseline:
    """The measurement that the errors of another model are relative to."""

    name: str
    record: RobustnessRecord


def read_baseline(bundle: Path | str, selection: Selection, data: Path, cache: Path) -> MeasuredBaseline:
    """Return what `bundle` keeps about the selected images; BundleError where it keeps nothing current.

    The baseline is not measured here, so that no test part is opened for it unseen.
    """
    from hpo.bundle.bundle import read_bundle
    from hpo.bundle.corrupted_measurement import FAMILIES as CURRENT
    from hpo.bundle.corrupted_records import stored_records
    from hpo.bundle.remote import local_bundle
    from hpo.bundle.stored_metrics import METRICS
    from hpo.data.digests import digest_of_part

    with local_bundle(bundle, cache) as folder:
        records = stored_records(read_bundle(folder).metrics, str(folder / METRICS))
    images = digest_of_part(selection.part)
    found = next((one for one in records if one.images == images), None)
    command = hint("evaluate", bundle, data=data, split=selection.name or None, corrupted=True)
    way_out = f"run `{command}` first"
    if found is None:
        raise BundleError(f"{bundle} keeps no measurement under corruptions on these very images; {way_out}")
    if [(one.family, one.version) for one in found.result.families] != [(one.name, one.version) for one in CURRENT]:
        raise BundleError(f"{bundle} was measured under corruptions of another version of hpo; {way_out}")
    return MeasuredBaseline(str(bundle), found)


def measure_robustness(
    model: Model, evaluation: Evaluation, cache: Path, baseline: MeasuredBaseline | None, progress: Progress | None
) -> RobustnessResult:
    """Measure a model on the images of an evaluation under both families, and keep the result in its bundle if it may.

    The prediction sets of the evaluation are measured there too.
    """
    from hpo.bundle.corrupted_measurement import measure_corrupted, new_record
    from hpo.bundle.set_coverage import CopyScores

    selection = evaluation.selection
    scores = CopyScores(model.bundle, evaluation.sets)
    found = measure_corrupted(model, selection.part, cache, progress=progress, on_copy=scores.add)
    errors = _errors_over(baseline, found) if baseline else None
    record = new_record(found, selection.part, selection.name or "all", selection.fingerprint, errors)
    trained = ("train", "val") if model.bundle.manifest.stage == "retrained" else ("train",)
    seen = selection.own and selection.name in trained
    return RobustnessResult(
        record=record,
        baseline_name=baseline.name if baseline else "",
        not_kept="the model has trained on these images" if seen else _keep(record, scores, own=selection.own),
    )


class CorruptedTest:
    """The measurement of a retrained model under corruptions, on the test part, where it is wanted."""

    def __init__(self, cache: Path, *, wanted: bool) -> None:
        self._cache, self._wanted = cache, wanted
        self._found: RobustnessResult | None = None

    def measure(self, model: Model, test: Part, sets: SetMeasurement | None) -> None:
        """Measure the model on its test part, which is open, and keep the result in its bundle."""
        from hpo.bundle.corrupted_measurement import measure_corrupted, new_record
        from hpo.bundle.set_coverage import CopyScores
        from hpo.cli.progress import counting

        if not self._wanted:
            return
        scores = CopyScores(model.bundle, sets)
        with counting("images under corruptions") as progress:
            found = measure_corrupted(model, test, self._cache, progress=progress, on_copy=scores.add)
        record = new_record(found, test, "test", model.bundle.manifest.data.fingerprint)
        self._found = RobustnessResult(record, "", _keep(record, scores, own=True))

    def print(self, out: Path | str) -> None:
        """Print what was measured in `out`, or why nothing was; nothing where it is not wanted."""
        from rich.console import Console

        if self._found is not None:
            print_robustness(Console(), self._found)
            for line in self._found.lines(out):
                click.echo(line, err=True)
        elif self._wanted:
            click.echo("nothing was measured under corruptions: there is no test part", err=True)


def _errors_over(baseline: MeasuredBaseline, found: Robustness) -> BaselineErrors:
    """Return the errors of a result relative to those of the baseline, as the bundle keeps them."""
    from hpo.bundle.corrupted_records import BaselineErrors
    from hpo.private_paths import public_path

    return BaselineErrors(public_path(baseline.name), found.relative_errors(baseline.record.result))


def _keep(record: RobustnessRecord, scores: CopyScores, *, own: bool) -> str:
    """Write the record into the bundle and, for its `own` data, the scores; return why not, or an empty text."""
    from hpo.bundle.corrupted_measurement import keep_record

    try:
        keep_record(scores.bundle.path, record)
        if own:
            scores.keep(record.part, record.images)
    except OSError as error:
        return f"its metrics.json cannot be written ({error.strerror})"
    return ""


def print_robustness(console: Console, found: RobustnessResult) -> None:
    """Print accuracy on the images as they are and under both families, and a line for each kind."""
    from rich.table import Table
    from rich.text import Text

    result = found.record.result
    drawn = f" of {result.of:,}, drawn at random," if result.images < result.of else ""
    console.print()
    console.print(Text(f"under corruptions: {result.images:,} images{drawn} each once under each kind", style="bold"))
    grid = Table.grid(padding=(0, 2))
    clean = ("clean", result.clean, "the images as they are")
    for name, score, what in (clean, *((one.family, one.accuracy, FAMILIES[one.family]) for one in result.families)):
        low, high = score.interval
        grid.add_row(name, f"{score.value:.4f} ({low:.4f} to {high:.4f})", what)
    console.print(grid)
    for line in _relative_lines(found):
        console.print(Text(line), soft_wrap=True)
    console.print(_kinds(result, found))


def _relative_lines(found: RobustnessResult) -> list[str]:
    """Return the mean relative errors, and the kinds that are not in them."""
    ratios = found.relative_errors
    known = {name: _with_interval(ratio) for name, ratio in ratios.items() if ratio.mean is not None}
    if not known:
        return [f"errors relative to {found.relative_to}: not defined, because there is none"]
    name = "mCE, " if found.baseline_name else ""
    values = ", ".join(f"{family} {value}" for family, value in known.items())
    lines = [f"{name}errors relative to {found.relative_to}, mean over the kinds: {values}"]
    if missing := [kind for ratio in ratios.values() for kind in ratio.undefined]:
        lines.append(f"without {', '.join(missing)}, under which there is no error to divide by")
    return lines


def _with_interval(ratio: RelativeErrors) -> str:
    """Return `0.812 (0.750 to 0.880)`, without an interval where there is none."""
    return f"{ratio.mean:.3f}" + (f" ({ratio.interval[0]:.3f} to {ratio.interval[1]:.3f})" if ratio.interval else "")


def _kinds(result: Robustness, found: RobustnessResult) -> Any:
    """Return the table of accuracy by kind and severity, with the mean and the relative error."""
    from rich.table import Table

    few = min((one.images for family in result.families for one in family.conditions), default=0) < _FEW
    table = Table(box=None, padding=(0, 1 if few else 2, 0, 0), header_style="dim")
    table.add_column("% right (of n)" if few else "accuracy by severity", no_wrap=True)
    for heading in ("1", "2", "3", "4", "5", "mean", "errors ×"):
        table.add_column(heading, justify="right", no_wrap=True)
    for family in result.families:
        ratios = found.relative_errors[family.family].kinds
        table.add_row(f"[bold]{family.family}[/bold]")
        for kind, conditions in family.by_kind.items():
            table.add_row(kind, *_cells_of(conditions, few=few), _ratio(ratios.get(kind), few=few))
    return table


def _cells_of(conditions: Sequence[Condition], *, few: bool) -> list[str]:
    """Return the accuracy under each severity, and the mean."""
    by_step = {one.severity: _cell(one, few=few) for one in conditions}
    mean = sum(one.accuracy for one in conditions) / len(conditions)
    return [*(by_step.get(step, "") for step in range(1, 6)), f"{100 * mean:.0f}" if few else f"{mean:.3f}"]


def _ratio(ratio: float | None, *, few: bool) -> str:
    """Return relative errors, with fewer digits for few images."""
    return "–" if ratio is None else f"{ratio:.{1 if few else 2}f}"


def _cell(one: Condition, *, few: bool) -> str:
    """Return `0.912`, or of a table with few images `75 (4)`: per cent and the number of images."""
    return f"{100 * one.accuracy:.0f} ({one.images})" if few else f"{one.accuracy:.3f}"
