"""An ablation as a table for the terminal, in Markdown and in CSV, and as a figure; and all its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpo.evaluation.intervals import Difference
from hpo.experiments.ablation import AblationLine, AblationOutcome
from hpo.experiments.outputs import to_csv, to_json
from hpo.experiments.provenance import Provenance
from hpo.figures.charts import PRINT_BLUE, PRINT_GREY, PRINT_ORANGE, add_grid, figure_files, file_style
from hpo.markdown import NOTHING, to_document, to_markdown

_VERDICTS = {"more": "helps", "less": "costs", "open": "open"}

_STYLES = {"more": "green", "less": "red", "open": "dim"}

_SINGLE = ("part", "in its place", "without it", "contribution", "95 % interval", "verdict")

_JOINT = ("pair", "joint contribution", "interaction", "95 % interval", "verdict")

_PAIR_VERDICTS = {"more": "make up for each other", "less": "need each other", "open": "open"}


def print_outcomes(console: Console, outcomes: Sequence[AblationOutcome], about: Provenance) -> None:
    """Print the parts by contribution and the pairs by interaction for each metric, then the notes; 120 columns."""
    for one in outcomes:
        console.print(Text(_whole(one), style="bold"))
        console.print(_table(("part", "in its place", "without it", "contribution", "95 % interval", ""), one.parts))
        console.print()
        if one.pairs:
            console.print(_table(("pair", "joint", "interaction", "95 % interval", ""), one.pairs))
            console.print()
    for line in notes(outcomes, about):
        console.print(Text(line, style="dim"))


def _table(header: Sequence[str], lines: Sequence[AblationLine]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    left = ("part", "in its place", "pair", "")
    for heading in header:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=heading not in left)
    for line in lines:
        *cells, verdict = _cells(line)
        table.add_row(*cells, Text(verdict, style=_STYLES[line.judged.verdict] if line.judged else "dim"))
    return table


def _cells(line: AblationLine) -> tuple[str, ...]:
    """Return the cells of a part or of a pair, the verdict last."""
    if len(line.parts) == 2:
        verdict = _PAIR_VERDICTS[line.interaction.verdict] if line.interaction else NOTHING
        return line.name, _points(line.contribution), _points(line.interaction), _interval(line.interaction), verdict
    verdict = _VERDICTS[line.contribution.verdict] if line.contribution else "no run"
    value = NOTHING if line.value is None else f"{100 * line.value:.2f}"
    return line.name, line.instead, value, _points(line.contribution), _interval(line.contribution), verdict


def markdown(outcomes: Sequence[AblationOutcome], about: Provenance) -> str:
    """Return the tables and the notes in Markdown."""
    parts: list[str] = []
    for one in outcomes:
        parts += [f"## {_whole(one)}\n", to_markdown(_SINGLE, map(_cells, one.parts), left=2)]
        if one.pairs:
            parts.append(to_markdown(_JOINT, map(_cells, one.pairs)))
    return to_document("Ablation", parts, notes(outcomes, about))


def csv_table(outcomes: Sequence[AblationOutcome]) -> bytes:
    """Return a line for each metric and part or pair, with all digits."""
    return to_csv({"metric": one.metric, **_csv_row(line)} for one in outcomes for line in (*one.parts, *one.pairs))


def _csv_row(line: AblationLine) -> dict[str, Any]:
    return {
        "parts": line.name,
        "instead": line.instead,
        "without": line.value,
        **_columns("contribution", line.contribution),
        **_columns("interaction", line.interaction),
        "notes": "; ".join(line.notes),
    }


def _columns(name: str, found: Difference | None) -> dict[str, Any]:
    low, high = found.interval if found and found.interval else (None, None)
    seeds = len(found.values) if found else None
    return {name: found.mean if found else None, f"{name}_low": low, f"{name}_high": high, f"{name}_seeds": seeds}


def notes(outcomes: Sequence[AblationOutcome], about: Provenance) -> list[str]:
    """Return the lines that readers of the figures must see."""
    lines = [line for one in outcomes for line in (*one.parts, *one.pairs)]
    endings = dict.fromkeys(note for line in lines for note in line.notes)
    judged = [line.judged for line in lines if line.judged]
    return [*endings, *_definitions(outcomes[0]), *_interval_notes(outcomes[0].seeds, judged), about.line]


def _definitions(outcome: AblationOutcome) -> Iterator[str]:
    yield "contribution: with the part minus without it, in points, between runs of one seed, each at its best epoch"
    if outcome.pairs:
        yield "interaction: the joint contribution minus the sum of the two"


def _interval_notes(seeds: int, judged: Sequence[Difference]) -> Iterator[str]:
    """Yield what the intervals are over, and the probability that one of them misses the true value."""
    if seeds < 2:
        yield "one seed gives no interval, and no contribution is shown to be more than luck; --seeds 3 gives one"
    over = sorted({len(one.values) for one in judged if one.interval})
    count = sum(one.interval is not None for one in judged)
    if over:
        span = f"{over[0]} to {over[-1]}" if len(over) > 1 else str(over[0])
        yield f"interval: Student's t over {span} seeds, on the same images; 1 of 20 misses the truth"
    if count > 1:
        # Sidak 1967, JASA 62:626-633: at most this for independent intervals and for correlated ones
        chance = f"{1 - 0.95**count:.0%}"
        yield f"{count} intervals: that at least one of them misses the truth has a chance of up to {chance}"
    if any(len(one.values) > 1 and one.interval is None for one in judged):
        yield "no interval where all seeds differ by exactly the same: so few images tell nothing of the spread"


def _whole(outcome: AblationOutcome) -> str:
    values = list(outcome.whole.values())
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    seeds = "1 seed" if len(values) == 1 else f"{len(values)} seeds"
    return f"everything: {outcome.metric} {100 * mean(values):.2f}{spread} ({seeds})"


def _points(found: Difference | None) -> str:
    return NOTHING if found is None else f"{100 * found.mean:+.2f}"


def _interval(found: Difference | None) -> str:
    if found is None or found.interval is None:
        return NOTHING
    return f"{100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f}"


_COLOURS = {"more": PRINT_BLUE, "less": PRINT_ORANGE, "open": PRINT_GREY}


def draw_ablation(outcomes: Sequence[AblationOutcome]) -> Figure:
    """Return a row for each metric with contributions, and interactions of pairs; grey if the interval contains 0."""
    longest = max(4, *(max(len(one.parts), len(one.pairs)) for one in outcomes))
    columns = 2 if outcomes[0].pairs else 1
    with file_style():
        size = (11 if columns == 2 else 7.5, len(outcomes) * (1.2 + 0.3 * longest))
        figure = Figure(figsize=size, layout="constrained")
        for one, panels in zip(outcomes, figure.subplots(len(outcomes), columns, squeeze=False), strict=True):
            _draw_bars(panels[0], one.parts, lambda line: line.contribution)
            panels[0].set_xlabel(f"contribution to {one.metric}, in points")
            if columns == 2:
                _draw_bars(panels[1], one.pairs, lambda line: line.interaction)
                panels[1].set_xlabel("interaction: joint contribution minus the sum, in points")
    return figure


def _draw_bars(axes: Axes, lines: Sequence[AblationLine], of: Callable[[AblationLine], Difference | None]) -> None:
    known = [(line, found) for line in lines if (found := of(line)) is not None]
    for place, (_, found) in enumerate(known):
        axes.barh(place, 100 * found.mean, color=_COLOURS[found.verdict], alpha=0.6, height=0.62)
        if found.interval is not None:
            ends = [100 * end for end in found.interval]
            axes.plot(ends, [place, place], color="black", linewidth=1, marker="|", markersize=7)
        values = [100 * value for value in found.values]
        axes.plot(values, [place] * len(values), "o", color="black", markersize=2.5, alpha=0.7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(known)), [line.name for line, _ in known])
    axes.set_ylim(len(known) - 0.4, -0.6)
    add_grid(axes, axis="x")


def ablation_files(
    outcomes: Sequence[AblationOutcome], config: Mapping[str, Any], about: Provenance
) -> dict[str, bytes]:
    """Return table.md, table.csv, figure.svg, figure.png, and results.json with everything."""
    results = {**about.to_dict(), "config": dict(config), "outcomes": [one.to_dict() for one in outcomes]}
    return {
        "table.md": markdown(outcomes, about).encode(),
        "table.csv": csv_table(outcomes),
        **figure_files(draw_ablation(outcomes)),
        "results.json": to_json(results),
    }
