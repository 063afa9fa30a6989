"""What a comparison leaves in a folder."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.comparison.candidate import Candidate
from hpo.comparison.circumstances import Circumstances
from hpo.comparison.drawing import render
from hpo.comparison.figure import draw
from hpo.comparison.outputs import to_json
from hpo.comparison.row import Row
from hpo.comparison.table import csv_table, markdown


def files(rows: Sequence[Row], missing: Sequence[Candidate], about: Circumstances) -> dict[str, bytes]:
    """table.md, table.csv, figure.svg, figure.png and results.json, which holds everything."""
    results = {
        **about.to_dict(),
        "contestants": [row.to_dict() for row in rows],
        "missing": [{"label": candidate.label, "notes": list(candidate.notes)} for candidate in missing],
    }
    return {
        "table.md": markdown(rows, about).encode(),
        "table.csv": csv_table(rows),
        **render(draw(rows)),
        "results.json": to_json(results),
    }
