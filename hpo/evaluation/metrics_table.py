"""Tables of one evaluation for the terminal: scores, classes, confusion matrix, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpo.evaluation.metrics import Confused, Report

if TYPE_CHECKING:
    from hpo.evaluation.calibration import Reliability


WIDEST_MATRIX = 16
"""Classes beyond which a matrix does not fit a terminal; only the worst pairs are printed then."""


def print_report(console: Console, report: Report, title: str) -> None:
    """Print `title`, the scores, a row per class, the confusion matrix and the worst pairs."""
    console.print(Text(title, style="bold"))
    console.print(_scores(report))
    console.print(_class_table(report))
    if len(report.labels) <= WIDEST_MATRIX:
        console.print(_matrix(report))
    if report.worst_pairs:
        console.print(_worst(report.worst_pairs))


def print_reliability(
    console: Console, before: Reliability, after: Reliability | None = None, temperature: float = 1.0
) -> None:
    """Print ECE, Brier score and NLL at temperature 1 and, if `after` is given, at the fitted temperature.

    A fitted temperature of 1 changes nothing: the one column says so.
    """
    if temperature == 1:
        before, after = after or before, None
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("calibration", no_wrap=True)
    table.add_column("temperature 1", justify="right")
    if after:
        table.add_column(f"temperature {temperature:.3g}", justify="right")
    for heading, name in (
        ("ECE", "ece"),
        ("  if perfectly calibrated, about", "chance_ece"),
        ("Brier", "brier"),
        ("NLL", "nll"),
    ):
        table.add_row(heading, *(f"{getattr(column, name):.4f}" for column in (before, after) if column))
    console.print(Group("", table))


def accuracy_line(accuracy: float, interval: tuple[float, float], n: int) -> str:
    """Return a text such as `0.9813 (95 % interval 0.9737 to 0.9867, n 1,710)`."""
    return f"{accuracy:.4f} (95 % interval {interval[0]:.4f} to {interval[1]:.4f}, n {n:,})"


def _scores(report: Report) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_row("accuracy", accuracy_line(report.accuracy, report.interval, report.n))
    grid.add_row("balanced accuracy", f"{report.balanced_accuracy:.4f}")
    grid.add_row("macro F1", f"{report.macro_f1:.4f}")
    grid.add_row("loss", f"{report.loss:.4f}")
    return grid


def _class_table(report: Report) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("class", no_wrap=True)
    for heading in ("precision", "recall", "F1", "images"):
        table.add_column(heading, justify="right")
    for name, score in report.classes.items():
        ratios = (score.precision, score.recall, score.f1)
        table.add_row(Text(name), *(f"{ratio:.4f}" for ratio in ratios), f"{score.support:,}")
    return Group("", table)


def _matrix(report: Report) -> RenderableType:
    # Rows have numbered names and columns only numbers, so that long names do not widen the matrix.
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("true \\ predicted", no_wrap=True)
    for number in range(1, len(report.labels) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, (name, row) in enumerate(zip(report.labels, report.confusion, strict=True), start=1):
        cells = (_cell(count, right=column == number) for column, count in enumerate(row, start=1))
        table.add_row(Text(f"{number:>2} {name}"), *cells)
    return Group("", table)


def _cell(count: int, *, right: bool) -> Text:
    if not count:
        return Text("·", style="dim")
    return Text(str(count), style="green" if right else "bold red")


def _worst(pairs: tuple[Confused, ...]) -> RenderableType:
    lines = [Text(f"  {pair.count:,} of {pair.true} taken for {pair.predicted} ({pair.share:.1%})") for pair in pairs]
    return Group("", Text("most frequent mistakes", style="dim"), *lines)
