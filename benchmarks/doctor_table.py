"""The results of the benchmark of the data doctor as markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.doctor_pictures import KINDS
from benchmarks.doctor_worth import worth_table

TEXT = ("version", "stages, s")
"""Columns of words."""

Methods = Mapping[str, Mapping[str, Any]]
"""Method -> seed -> its figures."""


def figure(values: list[float | None], form: str = ".3f") -> str:
    """Return the mean over seeds, with the lowest value where they differ."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = format(mean(known), form)
    lowest = format(min(known), form)
    return text if text == lowest else f"{text} ({lowest})"


def column(seeds: Mapping[str, Any], *path: str) -> list[float | None]:
    """Return a figure of each seed; None where the method has none."""
    found: list[float | None] = []
    for result in seeds.values():
        value: Any = result
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        found.append(value)
    return found


def tables(parts: Mapping[str, Any]) -> Iterator[str]:
    """Yield every table of which there is a result."""
    for part in ("doctor", "rivals"):
        if part in parts:
            yield run_line(part, parts[part]["run"])
    methods = {
        name: seeds for part in ("doctor", "rivals") for name, seeds in parts.get(part, {}).get("found", {}).items()
    }
    if methods:
        yield from junk_table(methods)
        yield from copies_table(methods)
        yield from labels_table(methods)
        yield from cleaning_table(methods)
        yield from time_table(methods)
    for part, lines in (
        ("speed", speed_table),
        ("memory", memory_lines),
        ("growth", growth_table),
        ("real", real_table),
    ):
        if part in parts:
            yield ""
            yield run_line(part, parts[part]["run"])
            yield from lines(parts[part]["found"])
    if "worth" in parts:
        yield ""
        yield run_line("worth", parts["worth"]["run"])
        yield from worth_table(parts["worth"]["found"])


def run_line(part: str, run: Mapping[str, Any]) -> str:
    """Return date, machine, load and command of a part."""
    return f"{part}: {run['date']}, {run['machine']}, load {run['load']}, `{run['command']}`"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table in markdown; the first column is aligned to the left, and so is what is named TEXT."""
    yield f"| {' | '.join(headings)} |"
    yield "|---|" + "".join("---|" if heading in TEXT else "---:|" for heading in headings[1:])
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def of_methods(
    title: str, methods: Methods, needed: tuple[str, ...], columns: Mapping[str, Callable[[Any], str]]
) -> Iterator[str]:
    """Yield a table with a row for each method that has the figure `needed`; a column makes its cell of the seeds."""
    yield f"\n{title}\n"
    has = {name: seeds for name, seeds in methods.items() if any(column(seeds, *needed))}
    rows = [[name, *(cell(seeds) for cell in columns.values())] for name, seeds in has.items()]
    yield from table(["method", *columns], rows)


def cell(*path: str, form: str = ".3f") -> Callable[[Any], str]:
    """Return the function that makes a cell of the figure at `path` in each seed."""
    return lambda seeds: figure(column(seeds, *path), form)


def junk_table(methods: Methods) -> Iterator[str]:
    """Yield recall and precision of pictures that do not belong."""

    def of_groups(start: str) -> Callable[[Any], str]:
        return lambda seeds: figure(
            [
                share
                for result in seeds.values()
                for name, share in result["junk"]["by_group"].items()
                if name.startswith(start)
            ]
        )

    columns = {
        "recall": cell("junk", "recall"),
        "of clusters": of_groups("cluster"),
        "of scattered": of_groups("scattered"),
        "precision": cell("junk", "precision"),
    }
    title = "Pictures that do not belong; mean of the seeds (lowest)"
    yield from of_methods(title, methods, ("junk", "recall"), columns)


def copies_table(methods: Methods) -> Iterator[str]:
    """Yield recall by kind and precision of copies."""
    kinds = [*KINDS, "combined"]
    found = [kind for kind in kinds if any(any(column(seeds, "copies", "by_kind", kind)) for seeds in methods.values())]
    columns = {
        "recall": cell("copies", "recall"),
        **{kind: cell("copies", "by_kind", kind) for kind in found},
        "precision": cell("copies", "precision"),
        "pairs": cell("copies", "pairs", form=".0f"),
        "of them real": cell("copies", "natural", form=".0f"),
    }
    yield from of_methods("Copies, by pairs; mean of the seeds (lowest)", methods, ("copies", "pairs"), columns)


def labels_table(methods: Methods) -> Iterator[str]:
    """Yield average precision of wrong labels."""
    columns = {
        "average precision": cell("labels", "average_precision"),
        "precision at the number planted": cell("labels", "precision_at_planted"),
        "named": cell("labels", "named", form=".0f"),
        "of them wrong": cell("labels", "right", form=".0f"),
        "expected by the scores": cell("labels", "expected", form=".0f"),
    }
    title = "Wrong labels, over all files but junk; mean of the seeds (lowest)"
    yield from of_methods(title, methods, ("labels", "average_precision"), columns)


def cleaning_table(methods: Methods) -> Iterator[str]:
    """Yield what a cleaning by the method's own choices leaves and loses."""
    columns = {
        "dropped": cell("cleaning", "dropped", form=".0f"),
        "junk left": cell("cleaning", "junk_left", form=".0f"),
        "right pictures lost": cell("cleaning", "pictures_lost", form=".0f"),
        "conflicts found": cell("conflicts", "found", form=".0f"),
        "precision of conflicts": cell("conflicts", "precision"),
    }
    yield from of_methods("What `--clean` would do", methods, ("cleaning", "dropped"), columns)


def time_table(methods: Methods) -> Iterator[str]:
    """Yield the seconds of every method on the planted sets."""

    def version(seeds: Any) -> str:
        about = next(iter(seeds.values()))
        return " ".join(part for part in (about.get("version", ""), about.get("note", "")) if part)

    columns = {
        "seconds": cell("seconds", form=".1f"),
        "processor seconds": cell("processor", form=".1f"),
        "version": version,
    }
    yield from of_methods("Time on a planted set", methods, ("seconds",), columns)


def speed_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the stages of both runs."""
    yield "| what | threads | images | seconds | processor | reading and decoding alone | resident, MiB | stages, s |"
    yield "|---|---:|---:|---:|---:|---:|---:|---|"
    for name, run in found.items():
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run["stages"].items())
        decoding = f"{run['decoding']:.1f}" if "decoding" in run else "–"
        yield (
            f"| {name} | {run['threads']} | {run['images']:,} | {run['seconds']:.1f} | {run['processor']:.1f} | "
            f"{decoding} | {run['peak_mib']:,.0f} | {stages} |"
        )


def memory_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the memory of the largest set."""
    yield from speed_table({"everything": found})


def growth_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield seconds by size and the exponent of the fitted power."""
    seconds = [f"{row['processor']:.2f}" for row in found["sizes"]]
    headings = ["images", *(str(row["images"]) for row in found["sizes"]), "exponent"]
    yield from table(headings, [["processor seconds of the search for copies", *seconds, f"{found['exponent']:.2f}"]])


def real_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the counts of findings in untouched sets."""
    kinds = sorted({kind for run in found.values() for kind in run["counts"]})
    yield from table(
        ["untouched set", "images", *kinds],
        [
            [name, str(run["images"]), *(str(run["counts"].get(kind, 0)) for kind in kinds)]
            for name, run in found.items()
        ],
    )
