"""Table: the outcome of a campaign, for the terminal and as JSON."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import Outcome


def show(outcome: Outcome, console: Console) -> None:
    """Print the table, the notes, and every broken promise."""
    table = Table(title=f"chaos, seed {outcome.size.seed}", show_header=False)
    for name, value in _rows(outcome):
        table.add_row(name, value)
    console.print(table)
    for note in outcome.notes:
        console.print(f"note: {note}", highlight=False)
    for text in [*outcome.failures, *outcome.verdict.details[:50]]:
        console.print(f"BROKEN: {text}", highlight=False, markup=False)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return everything that the table shows, for `docs/reliability.md`."""
    return {
        **asdict(outcome.size),
        "faults_struck": outcome.struck,
        "faults_by_kind": dict(sorted(outcome.faults.items())),
        "counts": outcome.verdict.counts(),
        "details": list(outcome.verdict.details),
        "wrong_exits": list(outcome.wrong_exits),
        "broken": list(outcome.broken),
        "trials_taken_up_in_processes": outcome.isolated,
        "epochs": outcome.epochs,
        "epochs_redone": {**asdict(outcome.redone), "mean": outcome.redone.mean},
        "notes": list(outcome.notes),
        "failures": outcome.failures,
        "seconds": round(outcome.seconds),
        "python": platform.python_version(),
    }


def _rows(outcome: Outcome) -> list[tuple[str, str]]:
    redone = outcome.redone
    return [
        ("trials", str(outcome.size.trials)),
        ("workers", str(outcome.size.workers)),
        ("  of them isolated", str(min(outcome.size.isolate, outcome.size.workers))),
        ("trials trained in a process of their own, by attempt", str(outcome.isolated)),
        ("checkpoints in", outcome.size.store),
        ("epochs", str(outcome.epochs)),
        ("faults", str(outcome.struck)),
        *((f"  {name}", str(count)) for name, count in sorted(outcome.faults.items())),
        *((name, str(count)) for name, count in outcome.verdict.counts().items()),
        ("workers with an unexpected exit", str(len(outcome.wrong_exits))),
        ("repeated epochs per fault, max", f"{redone.most:.2f}"),
        ("repeated epochs per fault, mean", f"{redone.mean:.2f}"),
        ("repeated epochs without a fault", f"{redone.unexplained:.2f}"),
        ("seconds", f"{outcome.seconds:.0f}"),
    ]
