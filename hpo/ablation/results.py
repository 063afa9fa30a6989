"""What an ablation leaves in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpo.ablation.figure import draw
from hpo.ablation.outcome import Outcome
from hpo.ablation.table import csv_table, markdown
from hpo.comparison.circumstances import Circumstances
from hpo.comparison.drawing import render
from hpo.comparison.outputs import to_json


def files(found: Sequence[Outcome], config: Mapping[str, Any], about: Circumstances) -> dict[str, bytes]:
    """table.md, table.csv, figure.svg, figure.png and results.json, which holds everything."""
    outcomes = [one.to_dict() for one in found]
    return {
        "table.md": markdown(found, about).encode(),
        "table.csv": csv_table(found),
        **render(draw(found)),
        "results.json": to_json({**about.to_dict(), "config": dict(config), "outcomes": outcomes}),
    }
