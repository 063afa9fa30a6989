"""Sections on the data as a whole: classes and their looks, remedies of imbalance, odd images, the map, the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpo.data.findings import Finding
from hpo.inspection.embedding_map import EmbeddingMap
from hpo.inspection.imbalance import ClassBalance, Imbalance
from hpo.inspection.inspected_data import InspectedData
from hpo.inspection.odd_images import OddImages, OddMeasure
from hpo.report import data_figures, wording
from hpo.report.data_pictures import Thumbnails
from hpo.report.page import Section

MOST_CLASSES = 60
"""Classes in tables; of more, the largest and the smallest half of them."""

MOST_EXAMPLES = 160
"""Examples of all classes together."""

MOST_OF_CLASS = 8

MOST_ODD = 40

Found = npt.NDArray[np.int64]


def classes_section(data: InspectedData, left_out: Iterable[str], pictures: Thumbnails) -> Section:
    """Return the section with counts, brightness, colours and an example sheet of each class.

    Examples are drawn at random, but not from the files in `left_out`.
    """
    counts = np.bincount(data.labels, minlength=len(data.classes))
    shown = _shown_classes(counts)
    refused = np.zeros(len(data), dtype=bool)
    refused[pictures.rows(left_out)] = True
    each = int(np.clip(MOST_EXAMPLES // max(1, len(shown)), 1, MOST_OF_CLASS))
    rows = [_class_row(data, label, each, refused, pictures) for label in shown]
    scale = _scaled([row["brightness"] for row in rows])
    parts = {part: [int(counts[label]) for label in shown] for part, counts in _by_part(data).items()}
    return Section(
        "looks", "The classes",
        {
            "facts": _size_facts(data),
            "svg": data_figures.class_bars([data.classes[label] for label in shown], parts),
            "rows": [{**row, "drawn": drawn} for row, drawn in zip(rows, scale.drawn, strict=True)],
            "low": scale.low,
            "high": scale.high,
            "hidden": len(counts) - len(shown),
        },
    )  # fmt: skip


class _Scaled(NamedTuple):
    """Ranges on a common axis from `low` to `high`."""

    low: float
    high: float
    drawn: list[tuple[float, ...]]
    """Left end, right end and mark, each from 0 to 1."""


def _scaled(ranges: Sequence[tuple[float, float, float]]) -> _Scaled:
    """Return ranges (left end, right end, mark) on the axis that just holds all of them."""
    low, high = min(one[0] for one in ranges), max(one[1] for one in ranges)
    room = max(high - low, 1e-9)
    return _Scaled(low, high, [tuple((value - low) / room for value in one) for one in ranges])


def _shown_classes(counts: npt.NDArray[np.int64]) -> list[int]:
    """Return the classes to show, in their order."""
    if len(counts) <= MOST_CLASSES:
        return list(range(len(counts)))
    ranked = np.argsort(-counts, kind="stable")
    half = MOST_CLASSES // 2
    return sorted({*ranked[:half].tolist(), *ranked[-half:].tolist()})


def _by_part(data: InspectedData) -> Mapping[str, npt.NDArray[np.int64]]:
    """Return part -> images of each class; one part «all» where none is given."""
    number = len(data.classes)
    if data.given is None:
        return {"all": np.bincount(data.labels, minlength=number)}
    parts = np.array([part or "no part" for part in data.given])
    return {
        part: np.bincount(data.labels[parts == part], minlength=number)
        for part in ("train", "val", "test", "no part")
        if part in parts
    }


def _class_row(
    data: InspectedData, label: int, each: int, refused: npt.NDArray[np.bool_], pictures: Thumbnails
) -> dict[str, Any]:
    rows = np.flatnonzero(data.labels == label)
    signatures = data.signatures[rows]
    usable = rows[~refused[rows]] if (~refused[rows]).any() else rows
    generator = np.random.default_rng(label)
    chosen = np.sort(generator.permutation(usable)[:each])
    brightness = signatures["brightness"].astype(np.float64)
    low, middle, high = np.quantile(brightness, [0.05, 0.5, 0.95]).tolist() if len(rows) else (0.0, 0.0, 0.0)
    # The mean of thumbnails is the mean colour of the images, each counting as much as another.
    colour = signatures["thumb"].mean(axis=(0, 1, 2)) if len(rows) else np.full(3, 128)
    return {
        "name": data.classes[label],
        "count": len(rows),
        "colour": "#" + "".join(f"{round(float(one)):02x}" for one in colour),
        "brightness": (low, high, middle),
        "contrast": float(np.median(signatures["contrast"])) if len(rows) else 0.0,
        "saturation": float(np.median(signatures["saturation"])) if len(rows) else 0.0,
        "examples": pictures.strip(chosen),
    }


def _size_facts(data: InspectedData) -> list[tuple[str, str]]:
    """Return sizes of the stored images, and other facts of the whole."""
    pairs = Counter(zip(data.signatures["width"].tolist(), data.signatures["height"].tolist(), strict=True))
    named = [f"{w} × {h}" + (f" ({count:,})" if len(pairs) > 1 else "") for (w, h), count in pairs.most_common(4)]
    more = f" and {len(pairs) - 4:,} other sizes" if len(pairs) > 4 else ""
    brightness = np.quantile(data.signatures["brightness"], [0.05, 0.5, 0.95]) if len(data) else np.zeros(3)
    return [
        ("images", f"{len(data):,} in {wording.counted(len(data.classes), 'class', 'classes')}"),
        ("stored at", ", ".join(named) + more + " pixels" if pairs else "no image"),
        ("shown at", f"the centre square, at {data.image_size} × {data.image_size} pixels"),
        (
            "brightness",
            f"median {brightness[1]:.0f} of 255, and 90 % within {brightness[0]:.0f} to {brightness[2]:.0f}",
        ),
    ]


def balance_section(imbalance: Imbalance) -> Section:
    """Return the section with what each remedy of imbalance does to each class."""
    shown = list(imbalance.classes)
    if len(shown) > MOST_CLASSES:
        shown = [imbalance.classes[i] for i in _shown_classes(np.array([one.count for one in shown]))]
    return Section(
        "balance", "Balance, and what remedies would do",
        {
            "verdict": imbalance.verdict(),
            "facts": _balance_facts(imbalance),
            "rows": shown,
            "hidden": len(imbalance.classes) - len(shown),
            "target": imbalance.target,
            "added": sum(one.added for one in imbalance.classes),
            "beta": imbalance.beta,
            "part": imbalance.part,
        },
    )  # fmt: skip


def _balance_facts(imbalance: Imbalance) -> list[tuple[str, str]]:
    few: Sequence[ClassBalance] = imbalance.few
    named = ", ".join(f"{wording.shortened(one.name, 30)} ({one.count})" for one in few[:6])
    return [
        ("largest to smallest", f"{imbalance.ratio:.1f} times"),
        ("majority baseline", f"accuracy {imbalance.majority:.3f} by always answering with the largest class"),
        ("classes of under 10 images", (named + (f" and {len(few) - 6} more" if len(few) > 6 else "")) or "none"),
    ]


def odd_section(odd: OddImages, pictures: Thumbnails) -> Section:
    """Return the section about unreadable, blank and odd images, with a histogram of each measure and its limits."""
    rows = [finding for finding in odd.findings if finding.finding == "odd"]
    unreadable = [finding for finding in odd.findings if finding.finding == "unreadable"]
    shown = rows[:MOST_ODD]
    return Section(
        "odd", "Broken and odd images",
        {
            "rows": [
                (pictures.of(at, pictures.label(at), marked=row.action == "drop"), row)
                for row in shown for at in pictures.rows([row.file])
            ],
            "more": len(rows) - len(shown),
            "unreadable": unreadable[:20],
            "more_unreadable": max(0, len(unreadable) - 20),
            "measures": [svg for measure in odd.measures if (svg := _measure_figure(measure))],
            "notes": odd.notes,
        },
    )  # fmt: skip


def _measure_figure(measure: OddMeasure) -> str:
    """Return the histogram of a measure; "" if all images have one value."""
    if not len(measure.values) or float(np.ptp(measure.values)) < 1e-9:
        return ""
    limits = [
        data_figures.Limit(limit, above)
        for limit, above in ((measure.low, False), (measure.high, True))
        if limit is not None
    ]
    name = "odd-" + measure.name.replace(" ", "-")
    return data_figures.histogram(name, measure.values, limits, measure.unit, logarithmic=measure.logarithmic)


def map_section(
    found: EmbeddingMap | None, data: InspectedData, findings: Sequence[Finding], missing: str
) -> Section:  # fmt: skip
    """Return the section with the map of the embeddings; `missing` says why there is none."""
    title = "Map of the embeddings"
    if found is None:
        return Section("map", title, missing=missing)
    place_of = {data.names[row]: place for place, row in enumerate(found.rows.tolist())}
    marks: dict[str, list[int]] = {}
    dropped = np.zeros(len(found.rows), dtype=bool)
    for row in findings:
        place = place_of.get(row.file)
        if place is not None:
            dropped[place] |= row.action == "drop"
            if row.finding != "copy" or row.action == "drop":
                marks.setdefault(row.finding, []).append(place)
    order = [kind for kind in data_figures.MARKS if kind in marks]
    points = data_figures.MapPoints(
        found.places, data.labels[found.rows],
        {kind: np.array(sorted(set(marks[kind])), dtype=np.int64) for kind in order}, dropped,
    )  # fmt: skip
    return Section(
        "map", title,
        {
            "svg": data_figures.embedding_map(points, data.classes),
            "drawn": len(found.rows),
            "total": len(data),
            "named": len(data.classes) <= data_figures.MOST_LABELLED,
        },
    )  # fmt: skip
