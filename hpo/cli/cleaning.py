"""Decisions on single images for a study: from a table of findings, or those of the data doctor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.options import UserPath, together
from hpo.errors import UsageError

if TYPE_CHECKING:
    from hpo.data.changes import DataChanges
    from hpo.data.findings import Findings
    from hpo.search.plan import Plan
    from storage import Database

CLEAN, FIX_LEAKS = "--clean", "--fix-leaks"

cleaning_options = together(
    click.option(
        "--findings", envvar="HPO_FINDINGS", type=UserPath(), default=None, metavar="FILE",
        help="Apply the actions of a table that `hpo data --out FILE` wrote, edited or not.",
    ),
)  # fmt: skip
"""Decisions on single images: `findings`."""


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
        if path is not None and options.get("clean", False):
            raise UsageError(f"--findings {path} and --clean contradict each other: give one of them")
        table = None if path is None else _read_table(path, data)
        return cls(table, options.get("clean", False), options.get("fix_leaks", False))

    def __bool__(self) -> bool:
        return self.findings is not None or self.clean or self.fix_leaks

    @property
    def source(self) -> str:
        """The options in words, as `DataChanges` keeps them."""
        table = [Path(self.findings.source).name] if self.findings is not None else []
        return " ".join([*table, *([CLEAN] if self.clean else []), *([FIX_LEAKS] if self.fix_leaks else [])])

    def is_of(self, stored: DataChanges) -> bool:
        """Return whether `stored` came from these options; a table may have another name than it had then."""
        same_table = self.findings is None or self.findings.digest == stored.digest
        options = {CLEAN, FIX_LEAKS} & {*stored.source.split()}
        asked = {CLEAN} if self.clean else set()
        table_then = bool({*stored.source.split()} - {CLEAN, FIX_LEAKS})
        asked |= {FIX_LEAKS} if self.fix_leaks else set()
        return same_table and options == asked and table_then == (self.findings is not None)


def with_changes(db: Database, plan: Plan, cleaning: Cleaning, home: Path) -> Plan:
    """Return the plan with the decisions on single images that `cleaning` asks for, else with those of its study.

    An existing study keeps its own, and the data are not inspected again. UsageError where it has others.
    """
    from hpo.search.plan import stored_origin

    origin = stored_origin(db, plan)
    if origin is None:
        return replace(plan, changes=_decide(plan, cleaning, home)) if cleaning else plan
    if cleaning and not cleaning.is_of(origin.changes):
        then = origin.changes.source
        made = f"with {then}" if then else "without --findings, --clean and --fix-leaks"
        differ = ", whose actions are others now" if then == cleaning.source else f", and not with {cleaning.source}"
        raise UsageError(
            f"study {plan.study!r} was made {made}{differ}: leave the option out to go on with the study, or give "
            "another name with --study"
        )
    return replace(plan, changes=origin.changes)


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


def _decide(plan: Plan, cleaning: Cleaning, home: Path) -> DataChanges:
    """Return the decisions on single images of a study that is made now."""
    if cleaning.findings is not None and not cleaning.fix_leaks:
        return cleaning.findings.changes()
    raise UsageError("--clean and --fix-leaks are not there yet")
