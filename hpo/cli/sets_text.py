"""Prediction sets on the command line: their options, what they are proved on, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.options import together
from hpo.errors import UsageError
from hpo.hints import hint

if TYPE_CHECKING:
    from rich.console import Console

    from hpo.bundle.bundle import Bundle
    from hpo.bundle.model import Model
    from hpo.bundle.proofs import BundleSets, SetOptions, SetSource
    from hpo.bundle.set_coverage import SetCoverage
    from hpo.evaluation.conformal import SetRule

kind_options = together(
    click.option(
        "--sets-method", type=click.Choice(["lac", "aps"]), default="lac", show_default=True,
        help="lac gives the smallest sets; aps larger ones, more alike in how often they hold easy and hard images.",
    ),
    click.option("--sets-by-class", is_flag=True, help="The level holds within each class, not only over all images."),
    click.option("--sets-clean", is_flag=True, help="Calibrate on clean images alone, not on altered ones too."),
)  # fmt: skip


def set_options(level: float | None, words: dict[str, Any]) -> SetOptions | None:
    """Return the options of sets, taken out of the command's `words`; None without a level.

    Raises UsageError for options of sets without --sets.
    """
    from hpo.bundle.proofs import SetOptions

    method, by_class, clean = (words.pop(f"sets_{name}") for name in ("method", "by_class", "clean"))
    if level is None:
        if by_class or clean or method != "lac":
            raise UsageError("--sets-method, --sets-by-class and --sets-clean are for sets: give --sets 0.95 too")
        return None
    return SetOptions(level, method, by_class, clean)


def shown_sets(model: Model, options: SetOptions, tta: str) -> SetRule:
    """Return the rule of a model's sets, and print what they hold; errors as in `sets_of`."""
    sets = model.sets(options)
    for line in set_lines(model.bundle, sets, tta):
        click.echo(line, err=True)
    return sets.rule


def set_lines(bundle: Bundle, found: BundleSets, tta: str) -> list[str]:
    """Return what the sets hold, on what that is proved, and what the worst severity of corruptions leaves."""
    from hpo.evaluation.calibration import RISK

    rule = found.rule
    each = " of each class" if found.by_class else ""
    like = _source(bundle, found.clean)
    if found.altered is not None:
        like += f", and of images like {_source(bundle, found.altered, altered=True)}"
    at_least = min(one.found.at_least for one in (found.clean, found.altered) if one is not None)
    apart = ", measured without --tta" if tta != "none" else ""
    lines = [
        f"sets hold the true class of {rule.level:.4g} of images{each} like {like} ({rule.method}{apart}; with "
        f"{1 - RISK:.0%} confidence of {at_least:.3f} at least)"
    ]
    if found.altered is None and found.without_altered != "as was asked":
        lines.append(f"sets are not made to hold for altered images: {found.without_altered}{_measuring(bundle)}")
    return [*lines, *_worst_lines(bundle, found)]


def _measuring(bundle: Bundle) -> str:
    """Return the command that measures a bundle on altered images of known severities."""
    split = "val" if bundle.manifest.stage == "exported" else None
    return f"; `{hint('evaluate', bundle.path, data='DATA', split=split, corrupted=True)}` measures it"


def _worst_lines(bundle: Bundle, found: BundleSets) -> list[str]:
    """Return the line on the severity at which the sets hold least."""
    if found.altered is None:
        return []
    worst = found.worst_severity()
    if worst is None:
        return [f"how often they do at each severity of corruptions is not known here{_measuring(bundle)}"]
    severity, share, mean = worst
    return [
        f"under the corruptions that a search may see they hold {mean:.3f}, and at the worst severity ({severity} of "
        f"5) {share:.3f}; images that differ more may be held less often"
    ]


def _source(bundle: Bundle, source: SetSource, *, altered: bool = False) -> str:
    """Return the images of a proof, with the choice that it allows for."""
    from hpo.bundle.calibration_images import SOURCES
    from hpo.bundle.proofs import best_of

    which = "altered " if altered else ""
    return f"the {source.found.originals:,} {which}{SOURCES[source.images.source]}{best_of(bundle, source.images)}"


def print_sets(console: Console, bundle: Bundle, sets: BundleSets, found: Sequence[SetCoverage]) -> None:
    """Print coverage and mean size of sets on labelled images, by family and severity."""
    from rich.table import Table
    from rich.text import Text

    rule = sets.rule
    console.print()
    like = _source(bundle, sets.clean)
    also = " and altered ones" if sets.altered else ""
    title = f"prediction sets for {rule.level:.4g} ({rule.method}), by {like}{also}"
    console.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading, justify in (
        ("images", "left"),
        ("n", "right"),
        ("coverage", "right"),
        ("", "left"),
        ("size", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for one in found:
        low, high = one.interval
        name = one.kind if one.severity is None else f"  severity {one.severity}"
        table.add_row(name, f"{one.images:,}", f"{one.coverage:.4f}", f"({low:.4f} to {high:.4f})", f"{one.size:.2f}")
    console.print(table)
