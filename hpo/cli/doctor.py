"""`hpo doctor`: check this machine, the database and a study, and give the fix for each fault."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.connect import artifacts_folder, cache_folder, with_password
from hpo.cli.options import UserPath, artifacts_option, debug_option, device_option, storage_options
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from rich.text import Text

    from hpo.doctor import Check


_WIDTH = 13
"""Width of the column that names what was checked."""


@click.command("doctor")
@click.argument("data", envvar="HPO_DATA", type=UserPath(), required=False)
@click.option("--study", envvar="HPO_STUDY", default=None, help="Name of a study to look at too.")
@device_option
@storage_options
@artifacts_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@debug_option
@click.pass_context
def doctor_command(
    ctx: click.Context, data: Path | None, study: str | None, device: str,
    storage: str | None, home: Path, artifacts: Path | str | None, as_json: bool,
) -> None:  # fmt: skip
    """Check libraries, device, disk, database and, where they are given, a study and its DATA.

    Each line is OK or !! with the fix; the exit code is 1 when something needs a fix. Some images of each class are
    decoded, all of a small data set; those of a study that this host has not seen before are decoded once.
    """
    from hpo.doctor import DoctorTargets, run_checks
    from storage import quiet_optuna

    quiet_optuna()
    targets = DoctorTargets(
        home=home, artifacts=artifacts_folder(artifacts, home), cache=cache_folder(home), device=device,
        storage=with_password(storage), study=study, data=data,
    )  # fmt: skip
    found = list(run_checks(targets)) if as_json else _print_each(run_checks(targets))
    well = all(check.ok for check in found)
    if as_json:
        click.echo(strict_json({"ok": well, "checks": [check.to_dict() for check in found]}, indent=2))
    ctx.exit(0 if well else 1)


def _print_each(checks: Iterable[Check]) -> list[Check]:
    """Print each check as it comes, since some take seconds; return all."""
    from rich.console import Console
    from rich.text import Text

    console, found = Console(), []
    for check in checks:
        console.print(check_line(check), soft_wrap=True)
        for line in check.summary.lines() if check.summary else ():
            console.print(Text(f"{' ' * (_WIDTH + 4)}{line}"), soft_wrap=True)
        found.append(check)
    return found


def check_line(check: Check) -> Text:
    """Return `OK  device       cpu (2 cores) computes, …`, or `!!` with the fix."""
    from rich.text import Text

    sign = Text("OK", style="green") if check.ok else Text("!!", style="bold red")
    fix = Text(f"; {check.fix}" if check.fix else "", style="bold")
    return Text.assemble(sign, "  ", (check.what.ljust(_WIDTH), "dim" if check.ok else ""), check.detail, fix)
