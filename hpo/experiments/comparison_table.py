"""A comparison as a table for the terminal, in Markdown and in CSV, and the notes under it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hpo.bundle.access_ledger import AccessCounts
from hpo.corruption_family import FamilyName
from hpo.evaluation.intervals import Score
from hpo.evaluation.robustness import RelativeErrors
from hpo.experiments.benchmark import BATCHES
from hpo.experiments.comparison import ComparisonRow
from hpo.experiments.outputs import to_csv
from hpo.experiments.provenance import Provenance
from hpo.markdown import NOTHING, to_document, to_markdown

SCORES = {"validation": "validation", "corrupted": "seen", "unseen": "unseen", "test": "test", "other": "other lab"}
"""Score of a row -> its heading; a column without any score is left out where it is the last."""

FAMILIES: Mapping[FamilyName, str] = {
    "seen": "corruptions that a search may see",
    "unseen": "corruptions that no search sees",
}

FIGURES: tuple[tuple[str, Callable[[ComparisonRow], str]], ...] = (
    ("macro F1", lambda row: percent(row.macro_f1)),
    ("mCE", lambda row: _mce(row, " ")),
    ("parameters", lambda row: count(row.parameters)),
    ("trainable", lambda row: count(row.trainable_parameters)),
    ("s per epoch", lambda row: _seconds(row.seconds_per_epoch)),
    *((f"images/s at {b}", lambda row, b=b: speed(row.images_per_second.get(b))) for b in BATCHES),
    ("peak memory", lambda row: memory(row.peak_memory, most=row.memory_shared)),
)
"""Heading and cell of the columns after the scores."""


def markdown(rows: Sequence[ComparisonRow], about: Provenance) -> str:
    """Return the table, the accuracy and the relative errors by corruption, and the notes."""
    scores = _scores(rows)
    header = ["model", "network", *scores.values(), *(heading for heading, _ in FIGURES)]
    cells = (
        [row.label, network(row), *(_one_line(getattr(row, s)) for s in scores), *(cell(row) for _, cell in FIGURES)]
        for row in rows
    )
    parts = [to_markdown(header, cells, left=2)]
    for family, words in FAMILIES.items():
        parts += _by_corruption(family, words, rows)
    return to_document("Comparison", parts, notes(rows, about))


def _one_line(score: Score | None) -> str:
    return NOTHING if score is None else f"{centre(score)} ({interval(score)})"


def _scores(rows: Sequence[ComparisonRow]) -> dict[str, str]:
    """Return the scores with a column, and their headings: `other lab` only where some model was measured there."""
    return {name: heading for name, heading in SCORES.items() if name != "other" or any(row.other for row in rows)}


def _by_corruption(family: FamilyName, words: str, rows: Sequence[ComparisonRow]) -> list[str]:
    """Return the tables of a family: accuracy by kind, and errors relative to those of the baseline."""
    found = {row.label: row.families[family] for row in rows if family in row.families}
    if not found:
        return []
    kinds = list(dict.fromkeys(kind for accuracies in found.values() for kind in accuracies))
    means = ([label, *(percent(mean(one[kind].values())) for kind in kinds)] for label, one in found.items())
    parts = [f"## Accuracy under {words}, mean over the severities\n", to_markdown(["model", *kinds], means)]
    return [*parts, *_relative_errors(family, words, rows, kinds)]


def _relative_errors(family: FamilyName, words: str, rows: Sequence[ComparisonRow], kinds: Sequence[str]) -> list[str]:
    """Return the table of errors relative to those of the baseline, by kind; nothing where there are none."""
    errors = {row.label: row.errors[family] for row in rows if family in row.errors}
    if not errors:
        return []
    cells = ([label, _ratio(one, " "), *map(percent, map(one.kinds.get, kinds))] for label, one in errors.items())
    title = f"## Errors under {words}, in % of those of {rows[0].baseline}\n"
    return [title, to_markdown(["model", "mCE", *kinds], cells)]


def _mce(row: ComparisonRow, gap: str) -> str:
    return _ratio(row.errors["unseen"], gap) if "unseen" in row.errors else NOTHING


def _ratio(errors: RelativeErrors, gap: str) -> str:
    """Return the mean of relative errors in %, with its interval after the `gap`; none for a model beside itself."""
    found = errors.interval
    if found is None or found[0] == found[1]:
        return percent(errors.mean)
    low, high = (f"{100 * end:.0f}" for end in found)
    return f"{percent(errors.mean)}{gap}({low}–{high})" if gap == " " else f"{percent(errors.mean)}{gap}{low}–{high}"


def corruptions_csv(rows: Iterable[ComparisonRow]) -> bytes:
    """Return a line for each model, family, kind and severity."""
    return to_csv(
        {"model": row.label, "family": family, "kind": kind, "severity": severity, "accuracy": accuracy}
        for row in rows
        for family, accuracies in row.families.items()
        for kind, by_severity in accuracies.items()
        for severity, accuracy in by_severity.items()
    )


def csv_table(rows: Iterable[ComparisonRow]) -> bytes:
    """Return a line for each model, with all digits."""
    return to_csv(_csv_row(row) for row in rows)


def _csv_row(row: ComparisonRow) -> Mapping[str, Any]:
    scores = {f"{name}{suffix}": value for name in SCORES for suffix, value in _parts(getattr(row, name)).items()}
    speeds = {f"images_per_second_{batch}": row.images_per_second.get(batch) for batch in BATCHES}
    plain = ("parameters", "trainable_parameters", "seconds_per_epoch")
    return {
        "model": row.label,
        **{name: getattr(row, name) for name in ("kind", "backbone", "image_size", "epochs", "seeds")},
        **scores,
        "other_balanced": row.other_balanced,
        "macro_f1": row.macro_f1,
        "baseline": row.baseline,
        **{key: value for family in FAMILIES for key, value in _mce_parts(family, row).items()},
        **{name: getattr(row, name) for name in plain},
        **speeds,
        "peak_memory": row.peak_memory,
        "memory_shared": row.memory_shared,
        "trained_on": "; ".join(row.trained_on),
        "notes": "; ".join(row.notes),
    }


def _mce_parts(family: FamilyName, row: ComparisonRow) -> dict[str, float | None]:
    errors = row.errors.get(family)
    low, high = (errors.interval if errors and errors.interval else None) or (None, None)
    return {f"mce_{family}": errors.mean if errors else None, f"mce_{family}_low": low, f"mce_{family}_high": high}


def _parts(score: Score | None) -> dict[str, float | None]:
    if score is None:
        return dict.fromkeys(("", "_low", "_high", "_n", "_spread"))
    return {
        "": score.value,
        "_low": score.interval[0],
        "_high": score.interval[1],
        "_n": score.n,
        "_spread": score.spread,
    }


def notes(rows: Sequence[ComparisonRow], about: Provenance) -> list[str]:
    """Return the lines that readers of the figures must see."""
    lines = [f"{row.label}: {note}" for row in rows for note in row.notes]
    lines += dict.fromkeys(note for row in rows for note in row.other_notes)
    lines += [*_access_notes(rows), *_training_notes(rows), *_corruption_notes(rows)]
    if about.busy:
        lines.append(f"the machine was busy (load {about.load:.1f} per core), so the speeds are lower than possible")
    seeds = max((row.seeds for row in rows), default=1)
    spread = f"; ± is the standard deviation over {seeds} seeds" if seeds > 1 else ""
    lines.append(f"accuracy in % with its 95 % interval{spread}; memory is the peak in training")
    return [*lines, about.line]


def _corruption_notes(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    """Yield what the columns on corruptions mean, and why there is no mCE where there is none."""
    if any(row.families for row in rows):
        yield "seen: under " + FAMILIES["seen"] + "; unseen: under " + FAMILIES["unseen"]
    baseline = next((row.baseline for row in rows if row.baseline), "")
    errors = [row.errors["unseen"] for row in rows if "unseen" in row.errors]
    if errors:
        missing = errors[0].undefined
        without = f", without {', '.join(missing)}, where it makes no error" if missing else ""
        yield f"mCE: errors under unseen corruptions in % of those of {baseline}, mean over the kinds{without}"
    elif baseline and any(row.families for row in rows):
        yield f"no mCE: {baseline} has no figures under corruptions; name another model by --baseline"


def _access_notes(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    """Yield a warning if several models were measured on the test part."""
    here = sum(row.seeds for row in rows if row.test)
    models = max([here, *(row.test_models for row in rows)])
    if here and models > 1:
        yield AccessCounts(max(row.openings for row in rows), models).line


def _training_notes(rows: Sequence[ComparisonRow]) -> Iterator[str]:
    """Yield a line for training figures from another machine, and one for memory shared with other trials."""
    places: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        places.setdefault(row.trained_on, []).append(row.label)
    for devices, labels in places.items():
        if devices:
            yield f"s/epoch and memory of {', '.join(labels)}: training ran on {' and '.join(devices)}"
    if any(row.memory_shared for row in rows):
        yield "≤: peak of a process that had trained others before"


_HEADINGS = {
    "parameters": "param.",
    "trainable": "train.",
    "s per epoch": "s/epoch",
    **{f"images/s at {batch}": f"img/s\n×{batch}" for batch in BATCHES},
    "peak memory": "memory",
}
"""Headings that are shorter than in a file."""

_INTERVALS = "intervals"

_LEAST_FIRST = {
    "images/s": {f"images/s at {batch}" for batch in BATCHES},
    "memory": {"peak memory"},
    "s/epoch": {"s per epoch"},
    "trainable": {"trainable"},
    "parameters": {"parameters"},
    "macro F1": {"macro F1"},
    "mCE": {"mCE"},
    _INTERVALS: {_INTERVALS},
    "seen": {"corrupted"},
    "unseen": {"unseen"},
    "other lab": {"other"},
    "test": {"test"},
}
"""Columns that a narrow terminal leaves out, the least important first: the name in the note, and the headings."""

_BREAKS = (r"(?<=, )", r"(?<= )", r"(?<=[-,:/])(?=\D)", r"(?<=_)(?=\D)")
"""Places where a text may be broken, each used only if those before do not suffice; numbers are not broken."""

_NAMES = 24
"""Width that the names get before figures are left out for them, in columns of the terminal."""

_WIDEST = 10_000


def print_comparison(console: Console, rows: Sequence[ComparisonRow], about: Provenance) -> None:
    """Print the table, the notes, and the origin of the data; all columns fit a width of 140.

    On a narrower terminal the least important columns are left out, and a line names them; no text is cut off.
    """
    left_out, names = _choose_layout(console, rows)
    table = _table(rows, _hidden(left_out), names)
    table.width = _width(console, table)  # otherwise Rich would squeeze a table that is wider than the console
    console.print(table, crop=False)
    if left_out:
        note = f"left out: {', '.join(left_out)}; table.md/csv of --out have all"
        console.print(Text(note, style="dim"))
    for line in notes(rows, about):
        console.print(Text(line, style="dim"))


def _choose_layout(console: Console, rows: Sequence[ComparisonRow]) -> tuple[list[str], int]:
    """Return the columns to leave out, and the width of the names: the least necessary, and what is left over."""
    names = _narrowest(rows)
    droppable = [name for name in _LEAST_FIRST if name != SCORES["other"] or "other" in _scores(rows)]
    for dropped in range(len(droppable) + 1):
        left_out = droppable[:dropped]
        spare = console.width - _width(console, _table(rows, _hidden(left_out), names))
        if spare >= 0:
            break
    return left_out, names + max(0, spare)


def _hidden(left_out: Sequence[str]) -> set[str]:
    """Return the headings, or the intervals, that belong to `left_out`."""
    return {heading for name in left_out for heading in _LEAST_FIRST[name]}


def _width(console: Console, table: Table) -> int:
    """Return the width of `table` if there is room for it."""
    return Measurement.get(console, console.options.update(width=_WIDEST), table).maximum


def _table(rows: Sequence[ComparisonRow], hidden: Collection[str], names: int) -> Table:
    """Return a table with intervals below the scores and names wrapped at `names` columns."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("model", no_wrap=True)
    scores = {name: heading for name, heading in _scores(rows).items() if name not in hidden}
    figures = [(heading, cell) for heading, cell in FIGURES if heading not in hidden]
    for heading in (*scores.values(), *(heading for heading, _ in figures)):
        table.add_column(_HEADINGS.get(heading, heading), justify="right", no_wrap=True)
    for row in rows:
        label = Text.assemble(wrapped(row.label, names), ("\n" + wrapped(network(row), names), "dim"))
        cells = (_score(getattr(row, name), _INTERVALS not in hidden) for name in scores)
        table.add_row(label, *cells, *(_figure(heading, cell(row), row, hidden) for heading, cell in figures))
    return table


def _figure(heading: str, cell: str, row: ComparisonRow, hidden: Collection[str]) -> Text:
    """Return the cell of a column; that of the mCE has its interval below, as the scores have."""
    if heading != "mCE":
        return Text(cell)
    figure, _, below = _mce(row, "\n").partition("\n")
    return Text.assemble(figure, ("\n" + below if below and _INTERVALS not in hidden else "", "dim"))


def _score(score: Score | None, with_interval: bool) -> Text:
    if score is None:
        return Text(NOTHING)
    return Text.assemble(centre(score), ("\n" + interval(score) if with_interval else "", "dim"))


def _narrowest(rows: Sequence[ComparisonRow]) -> int:
    """Return the least width of the names: that of the widest part that cannot be broken."""
    texts = [text for row in rows for text in (row.label, network(row))]
    usual = min(_NAMES, max(map(cell_len, texts)))
    return max(usual, *(cell_len(part.rstrip()) for text in texts for part in _breakable(text, 0)))


def wrapped(text: str, width: int) -> str:
    """Return `text` in lines of `width` columns, broken at spaces, else at hyphens and the like, or not at all."""
    lines = [""]
    for part in _breakable(text, width):
        if lines[-1] and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _breakable(text: str, width: int, breaks: Sequence[str] = _BREAKS) -> Iterator[str]:
    """Yield the pieces of `text`, broken at the first of `breaks`, and pieces that are still too wide at the others."""
    if cell_len(text.rstrip()) <= width or not breaks:
        yield text
        return
    for part in re.split(breaks[0], text):
        yield from _breakable(part, width, breaks[1:])


def network(row: ComparisonRow) -> str:
    """Return a text such as `resnet18, 96 px, 8 ep., 3 seeds`; a baseline has no epochs, since it is not trained."""
    epochs = f", {row.epochs} ep." if row.epochs is not None else ""
    seeds = f", {row.seeds} seeds" if row.seeds > 1 else ""
    return f"{row.backbone}, {row.image_size} px{epochs}{seeds}"


def centre(score: Score) -> str:
    """Return a score in %, with the standard deviation over several seeds: `98.77 ±1.2`."""
    spread = f" ±{100 * score.spread:.1f}" if score.spread is not None else ""
    return f"{100 * score.value:.2f}{spread}"


def interval(score: Score) -> str:
    """Return the interval in %: `97.4–98.7`."""
    low, high = score.interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def percent(value: float | None) -> str:
    """Return `96.0` for 0.96."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def count(value: int | None) -> str:
    """Return a text such as `3.50 M`, `12.3 k`, `0`."""
    if value is None:
        return NOTHING
    if value < 1000:
        return str(value)
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k"


def speed(value: float | None) -> str:
    """Return images per second with three digits."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def memory(value: int | None, *, most: bool = False) -> str:
    """Return a text such as `1.3 GB`, `640 MB`, or `≤1.3 GB` for an upper bound."""
    if not value:
        return NOTHING
    return ("≤" if most else "") + (f"{value / 1e9:.2g} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB")


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"
