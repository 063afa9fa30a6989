"""The results of the benchmark of the data doctor as markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from benchmarks.doctor_pictures import KINDS
from benchmarks.doctor_worth import worth_table

SIZE_AND_TIME = ("images", "seconds", "processor", "peak_mib", "threads", "load")


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


def junk_table(methods: Mapping[str, Any]) -> Iterator[str]:
    """Yield recall and precision of pictures that do not belong."""
    yield "\nPictures that do not belong; mean of the seeds (lowest)\n"
    yield "| method | recall | of clusters | of scattered | precision |"
    yield "|---|---:|---:|---:|---:|"
    for name, seeds in methods.items():
        if any(column(seeds, "junk", "recall")):
            groups = [result["junk"]["by_group"] for result in seeds.values()]
            clusters = [share for group in groups for key, share in group.items() if key.startswith("cluster")]
            scattered = [share for group in groups for key, share in group.items() if key.startswith("scattered")]
            cells = (column(seeds, "junk", "recall"), clusters, scattered, column(seeds, "junk", "precision"))
            yield f"| {name} | " + " | ".join(figure(values) for values in cells) + " |"


def copies_table(methods: Mapping[str, Any]) -> Iterator[str]:
    """Yield recall by kind and precision of copies."""
    kinds = [*KINDS, "combined"]
    found = [kind for kind in kinds if any(any(column(seeds, "copies", "by_kind", kind)) for seeds in methods.values())]
    yield "\nCopies, by pairs; mean of the seeds (lowest)\n"
    yield f"| method | recall | {' | '.join(found)} | precision | pairs | of them real |"
    yield "|---|---:|" + "---:|" * (len(found) + 3)
    for name, seeds in methods.items():
        if any(column(seeds, "copies", "pairs")):
            values = [column(seeds, "copies", "recall"), *(column(seeds, "copies", "by_kind", kind) for kind in found)]
            cells = [*(figure(value) for value in values), figure(column(seeds, "copies", "precision"))]
            cells += [figure(column(seeds, "copies", key), ".0f") for key in ("pairs", "natural")]
            yield f"| {name} | {' | '.join(cells)} |"


def labels_table(methods: Mapping[str, Any]) -> Iterator[str]:
    """Yield average precision of wrong labels."""
    yield "\nWrong labels, over all files but junk; mean of the seeds (lowest)\n"
    yield "| method | average precision | precision at the number planted |"
    yield "|---|---:|---:|"
    for name, seeds in methods.items():
        if any(column(seeds, "labels", "average_precision")):
            cells = [figure(column(seeds, "labels", key)) for key in ("average_precision", "precision_at_planted")]
            yield f"| {name} | {' | '.join(cells)} |"


def cleaning_table(methods: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a cleaning by the method's own choices leaves and loses."""
    yield "\nWhat `--clean` would do\n"
    yield "| method | dropped | junk left | right pictures lost | conflicts found | precision of conflicts |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, seeds in methods.items():
        if any(column(seeds, "cleaning", "dropped")):
            keys = ("dropped", "junk_left", "pictures_lost")
            cells = [figure(column(seeds, "cleaning", key), ".0f") for key in keys]
            cells += [
                figure(column(seeds, "conflicts", "found"), ".0f"),
                figure(column(seeds, "conflicts", "precision")),
            ]
            yield f"| {name} | {' | '.join(cells)} |"


def time_table(methods: Mapping[str, Any]) -> Iterator[str]:
    """Yield the seconds of every method on the planted sets."""
    yield "\nTime on a planted set\n"
    yield "| method | seconds | processor seconds | version |"
    yield "|---|---:|---:|---|"
    for name, seeds in methods.items():
        about = next(iter(seeds.values()))
        version = " ".join(part for part in (about.get("version", ""), about.get("note", "")) if part)
        if any(column(seeds, "seconds")):
            cells = [f"{mean(value for value in column(seeds, key) if value):.1f}" for key in ("seconds", "processor")]
            yield f"| {name} | {' | '.join(cells)} | {version} |"


def speed_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the stages of both runs."""
    yield "| what | threads | images | seconds | processor | resident, MiB | stages, s |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for name, run in found.items():
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in run["stages"].items())
        yield (
            f"| {name} | {run['threads']} | {run['images']} | {run['seconds']:.1f} | {run['processor']:.1f} | "
            f"{run['peak_mib']:.0f} | {stages} |"
        )


def memory_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the memory of the largest set."""
    yield from speed_table({"everything": found})


def growth_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield seconds by size and the exponent of the fitted power."""
    yield "| images | " + " | ".join(str(row["images"]) for row in found["sizes"]) + " | exponent |"
    yield "|---|" + "---:|" * (len(found["sizes"]) + 1)
    seconds = " | ".join(f"{row['processor']:.2f}" for row in found["sizes"])
    yield f"| processor seconds of the search for copies | {seconds} | {found['exponent']:.2f} |"


def real_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the counts of findings in untouched sets."""
    kinds = sorted({kind for run in found.values() for kind in run["counts"]})
    yield f"| untouched set | images | {' | '.join(kinds)} |"
    yield "|---|---:|" + "---:|" * len(kinds)
    for name, run in found.items():
        yield f"| {name} | {run['images']} | {' | '.join(str(run['counts'].get(kind, 0)) for kind in kinds)} |"
