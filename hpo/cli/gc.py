"""`hpo gc`: free the checkpoints that no kept trial needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import artifacts_folder, connected_study, require_artifacts
from hpo.cli.options import artifacts_option, debug_option, keep_option, storage_options, study_option
from hpo.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from storage import Database


@click.command("gc")
@study_option
@keep_option
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--orphans", is_flag=True, help="Also remove the files of studies that are not in this database.")
@click.option("--yes", is_flag=True, help="With --orphans: they are no other database's studies either.")
@storage_options
@artifacts_option
@debug_option
def gc_command(
    study: str, keep: int, dry_run: bool, orphans: bool, yes: bool,
    storage: str | None, home: Path, artifacts: Path | str | None,
) -> None:  # fmt: skip
    """Free what no kept trial of STUDY needs: checkpoints of finished trials but the best, leftovers of killed workers.

    A trial that runs or waits keeps what it goes on from. Workers do the same after every trial.
    """
    root = artifacts_folder(artifacts, home)
    with connected_study(storage, home, study) as (db, found):
        from hpo.search.garbage import free
        from storage import open_store, read_spec, refuse_foreign_files

        require_artifacts(root)
        study_id = read_spec(found).id
        refuse_foreign_files(db, root, study_id)
        removals = free(found, open_store(root, study_id), keep, dry_run=dry_run)
        rows = [(str(one.trial), one.what, one.size) for one in removals]
        _print_removals("trial", rows, dry_run, "every checkpoint is of a kept or an unfinished trial")
        if orphans:
            _remove_orphans(db, root, dry_run, yes)


def _remove_orphans(db: Database, root: Path | str, dry_run: bool, yes: bool) -> None:
    from hpo.search.garbage import stray_folders
    from storage import format_size, remove_stray_study

    found = stray_folders(db, root)
    if yes and not dry_run:
        for folder, _ in found:
            remove_stray_study(root, folder)
    rows = [(folder, "a study that is not in this database", size) for folder, size in found]
    _print_removals("folder", rows, dry_run or not yes, f"every study in {root} is in this database")
    if found and not yes and not dry_run:
        size = format_size(sum(size for _, size in found))
        raise UsageError(
            f"{size} in {root} belong to no study in {db.where}, but maybe to one in another database; "
            "if that is not so, --yes removes them"
        )


def _print_removals(title: str, rows: Sequence[tuple[str, str, int]], dry_run: bool, nothing: str) -> None:
    from rich.console import Console

    if rows:
        Console().print(freed_table(title, rows, dry_run))
    else:
        click.echo(f"nothing to free: {nothing}")


def freed_table(title: str, rows: Sequence[tuple[str, str, int]], dry_run: bool) -> RenderableType:
    """Return a table of what was removed, and of how much, with the total."""
    from rich.table import Table

    from storage import format_size

    table = Table(box=None, pad_edge=False, header_style="dim", show_footer=True, footer_style="bold")
    total = format_size(sum(size for _, _, size in rows))
    table.add_column(title, justify="right" if title == "trial" else "left", no_wrap=True)
    table.add_column("what", footer="would be freed" if dry_run else "freed")
    table.add_column("size", footer=total, justify="right", no_wrap=True)
    for name, what, size in rows:
        table.add_row(name, what, format_size(size))
    return table
