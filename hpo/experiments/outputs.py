"""The files that a comparison or an ablation leaves: whole or not at all, beside whatever else lies in the folder.

How figures of a comparison or an ablation look, and their files.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import UsageError
from hpo.files import write_file
from hpo.spreadsheet import plain_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def check_outputs(out: Path | None) -> None:
    """UsageError unless files may be written to the folder `out`; call it before the work, not only after."""
    if out is None:
        return
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"--out {out}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: {there} may not be written to; name another folder")


def write_outputs(out: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` into the folder `out`, which is made where it is not there; each replaces one of its name."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(out / name, content)


def to_json(values: Mapping[str, Any]) -> bytes:
    """Indented UTF-8."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def to_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A line per row under a header with the keys of the first; None is an empty field.

    Text that a spreadsheet would take for a formula stands behind an apostrophe: see `hpo.spreadsheet`.
    """
    rows = list(rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    keys = list(rows[0]) if rows else []
    writer.writerows(map(plain_row, [keys, *([row[key] for key in keys] for row in rows)]))
    return text.getvalue().encode()


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table whose first `left` columns stand left and whose others stand right."""
    rule = ["---" if place < left else "---:" for place in range(len(header))]
    lines = [header, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#888888"
"""Of Okabe and Ito's colours, which colour-blind readers tell apart."""

MARKS: dict[str, Any] = {"markersize": 4.5, "capsize": 2, "linewidth": 1}

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "hpo",
    "svg.fonttype": "path",
}
"""The same file for the same figures, and text that needs no font where it is shown."""


@contextmanager
def styled() -> Iterator[None]:
    """Figures that are made or written inside look alike."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def ruled(axes: Axes, **which: Any) -> None:
    """A light grid behind the figures."""
    axes.grid(color="#dddddd", linewidth=0.6, **which)


def render(figure: Figure) -> dict[str, bytes]:
    """`figure.svg` and `figure.png`."""
    options: dict[str, dict[str, Any]] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 160}}
    files = {}
    with styled():
        for suffix, given in options.items():
            content = io.BytesIO()
            figure.savefig(content, format=suffix, facecolor="white", **given)
            files[f"figure.{suffix}"] = content.getvalue()
    return files
