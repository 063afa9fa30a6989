"""Decisions on single images for a study: from a table of findings, or those of the data doctor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.connect import cache_folder
from hpo.cli.options import UserPath, together
from hpo.errors import UsageError
from hpo.hints import hint

if TYPE_CHECKING:
    from hpo.data import Dataset, PartName
    from hpo.data.changes import DataChanges
    from hpo.data.findings import Findings
    from hpo.inspection.inspect_data import DataInspection, InspectionOptions
    from hpo.search.plan import Plan
    from storage import Database

CLEAN, FIX_LEAKS = "--clean", "--fix-leaks"
"""As `hpo.data.changes.OPTIONS`, which takes longer to import."""

cleaning_options = together(
    click.option(
        "--findings", envvar="HPO_FINDINGS", type=UserPath(), default=None, metavar="FILE",
        help="Apply the actions of a table that `hpo data --out FILE` wrote, edited or not.",
    ),
    click.option(
        "--clean", envvar="HPO_CLEAN", is_flag=True,
        help="Leave out what the data doctor is sure of: `hpo data` shows it.",
    ),
    click.option(
        "--fix-leaks", envvar="HPO_FIX_LEAKS", is_flag=True,
        help="Put all copies of a picture into one of the parts that DATA brings.",
    ),
)  # fmt: skip
"""Decisions on single images: `findings`, `clean`, `fix_leaks`."""


@dataclass(frozen=True)
class Cleaning:
    """The decisions on single images that a command asks for."""

    findings: Findings | None = None
    """The table of --findings, compared with the listing of the data."""
    clean: bool = False
    fix_leaks: bool = False

    @classmethod
    def from_options(cls, data: Path, options: Mapping[str, Any]) -> Cleaning:
        """Read what `cleaning_options` give; no image is decoded.

        Raise UsageError for options that contradict each other, DataError for a table with a fault, or of other data.
        """
        path: Path | None = options["findings"]
        if path is not None and options["clean"]:
            raise UsageError(f"--findings {path} and --clean contradict each other: give one of them")
        table = None if path is None else _read_table(path, data)
        return cls(table, options["clean"], options["fix_leaks"])

    def __bool__(self) -> bool:
        return self.findings is not None or self.clean or self.fix_leaks

    @property
    def source(self) -> str:
        """The options in words, as `DataChanges` keeps them."""
        table = [Path(self.findings.source).name] if self.findings is not None else []
        return " ".join([*table, *self._options])

    @property
    def _options(self) -> tuple[str, ...]:
        return tuple(option for option, given in ((CLEAN, self.clean), (FIX_LEAKS, self.fix_leaks)) if given)

    def is_of(self, stored: DataChanges) -> bool:
        """Return whether `stored` came from these options; a table may have another name than it had then."""
        table, then = stored.table_and_options
        same_table = self.findings is None or self.findings.digest == stored.digest
        return same_table and then == self._options and bool(table) == (self.findings is not None)


def with_changes(db: Database, plan: Plan, cleaning: Cleaning, home: Path) -> Plan:
    """Return the plan with the decisions on single images that `cleaning` asks for, else with those of its study.

    An existing study keeps its own, and the data are not inspected again. UsageError where it has others.
    """
    from hpo.search.plan import stored_origin

    origin = stored_origin(db, plan)
    if origin is None:
        return replace(plan, changes=decide(plan, cleaning, home)) if cleaning else plan
    if cleaning and not cleaning.is_of(origin.changes):
        then = origin.changes.source
        made = f"with {then}" if then else "without --findings, --clean and --fix-leaks"
        differ = ", whose actions are others now" if then == cleaning.source else f", and not with {cleaning.source}"
        raise UsageError(
            f"study {plan.study!r} was made {made}{differ}: leave the option out to go on with the study, or give "
            "another name with --study"
        )
    return replace(plan, changes=origin.changes)


def cheap_findings(plan: Plan, dataset: Dataset, home: Path) -> list[str]:
    """Return a line on what the checks that need no embeddings find, with the command to see it; none if nothing.

    Nothing is looked for where decisions on single images are applied: a person, or the doctor, has looked.
    """
    if dataset.changes.source:
        return []
    from hpo.cli.data import steps
    from hpo.inspection.inspect_data import cheap_line, check_cheaply

    with steps() as progress:
        found = check_cheaply(plan.data, image_size=dataset.image_size, cache=cache_folder(home), progress=progress)
    line = cheap_line(found)
    weights = plan.space.fixed.get("weights")
    see = hint(
        "data", plan.data, backbone=plan.space.fixed.get("backbone") if weights else None, weights=weights,
        group_by=plan.split.group_by, home=None if home == Path(".hpo") else home,
    )  # fmt: skip
    return [f"the data doctor's quick checks: {line}; to see them: {see}; --clean leaves out what is sure"] * bool(line)


def _read_table(path: Path, data: Path) -> Findings:
    """Return the table, with files and classes as the data write them; its notes are printed."""
    from hpo.data.findings import read_findings
    from hpo.data.opening import open_source

    table = read_findings(path)
    listing = open_source(data).listing()
    checked = table.check((record.name for record in listing.records), listing.classes)
    checked.changes()  # raises for actions that contradict each other
    for note in checked.notes:
        click.echo(note, err=True)
    return checked


def decide(plan: Plan, cleaning: Cleaning, home: Path) -> DataChanges:
    """Return the decisions on single images of a study that is made now; the data are inspected where that is needed.

    What the inspection could not look for, and what changes nothing, is printed.
    """
    from hpo.data.findings import Findings

    table, found = cleaning.findings, None
    if table is None or cleaning.fix_leaks:
        found = _inspect(plan, cleaning, home)
        table = table if table is not None else found.findings if cleaning.clean else Findings()
    moves = moves_to_end_leaks(found, table) if found and cleaning.fix_leaks else None
    changes = replace(table.changes(parts=moves), source=cleaning.source)
    for line in _without_effect(cleaning, changes, found):
        click.echo(line, err=True)
    if cleaning.clean and found is not None and (kept := kept_labels(found, changes, home)):
        click.echo(kept, err=True)
    return changes


def kept_labels(found: DataInspection, changes: DataChanges, home: Path | None = None) -> str:
    """Return how many labels that are probably wrong stay, how many in given val and test, and the command to decide.

    "" where there are none. Parts that hpo makes are dealt later, so they are counted only where DATA brings them.
    """
    from hpo.inspection.next_commands import NextCommands

    files = {row.file for row in found.findings.rows if row.finding == "label"} - set(changes.drops)
    if not files:
        return ""
    given = zip(found.data.names, found.data.given or (), strict=False)
    parts = Counter(changes.parts.get(name, part) for name, part in given if name in files)
    measuring = ", ".join(f"{parts[part]:,} in {part}" for part in ("val", "test") if parts[part])
    are = "is probably wrong was" if len(files) == 1 else "are probably wrong were"
    labels = f"{len(files):,} label{'s' if len(files) > 1 else ''} that {are}"
    where, see = f" ({measuring})" if measuring else "", NextCommands.of(found, home).data()
    return f"{CLEAN}: {labels} kept{where}: {see} to decide"


def _inspect(plan: Plan, cleaning: Cleaning, home: Path) -> DataInspection:
    """Inspect the data of a plan; the checks that `--clean` goes without are printed."""
    from hpo.cli.data import steps
    from hpo.inspection.inspect_data import inspect_images

    options = _inspection_options(plan, embeddings=cleaning.clean)
    with steps() as progress:
        found = inspect_images(plan.data, options, cache=cache_folder(home), progress=progress)
    if cleaning.clean and (why := found.skipped.get("embeddings")):
        why = "no weights for that can be fetched here" if found.unfetched else why
        click.echo(
            f"{CLEAN} looked for copies, unreadable and blank images, not for pictures that do not belong: {why}",
            err=True,
        )
    return found


def moves_to_end_leaks(found: DataInspection, table: Findings) -> Mapping[str, PartName]:
    """Return file -> part as `--fix-leaks` moves them; images that the table drops leak nothing."""
    from hpo.inspection.leaks import find_leaks

    dropped = {row.file for row in table.rows if row.action == "drop"}
    return find_leaks(found.data, found.copies, without=dropped).moves if dropped else found.leaks.moves


def _without_effect(cleaning: Cleaning, changes: DataChanges, found: DataInspection | None) -> Iterator[str]:
    """Yield a line for each option that changes nothing."""
    if cleaning.findings is not None and not (changes.drops or changes.relabels):
        rows = "its row says" if len(cleaning.findings) == 1 else f"its {len(cleaning.findings):,} rows say"
        yield f"{Path(cleaning.findings.source).name}: {rows} keep, so no image is left out and no label changed"
    if cleaning.clean and not changes.drops:
        yield f"{CLEAN}: nothing is left out, no finding is sure enough"
    if cleaning.fix_leaks and not changes.parts and found is not None:
        why = "no image that stays lies in two of the given parts" if found.leaks.given else "DATA brings no parts"
        yield f"{FIX_LEAKS}: no image is moved, {why}"


def _inspection_options(plan: Plan, *, embeddings: bool) -> InspectionOptions:
    """Return the settings of an inspection: with the backbone and weights of the study, where it has but one."""
    from hpo.inspection.inspect_data import IMAGE_SIZE, InspectionOptions
    from hpo.models.baselines import is_baseline

    sizes: list[Any] = plan.space.values("image_size")
    fixed, backbones = plan.space.fixed, plan.space.values("backbone")
    usable = len(backbones) == 1 and fixed.get("pretrained", True) is True and not is_baseline(str(backbones[0]))
    weights = fixed.get("weights") if usable else None
    return InspectionOptions(
        image_size=min(sizes, key=lambda size: abs(size - IMAGE_SIZE)),
        backbone=str(backbones[0]) if usable else None,
        weights=Path(str(weights)) if weights else None,
        embeddings=embeddings,
        map=False,
        group_by=plan.split.group_by,
    )
