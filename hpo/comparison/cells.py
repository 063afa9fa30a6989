"""Figures of a comparison as text."""

from __future__ import annotations

from collections.abc import Callable

from hpo.comparison.row import Row
from hpo.comparison.score import Score
from hpo.comparison.speed import BATCHES

NOTHING = "–"
SCORES = ("validation", "corrupted", "test")


def model(row: Row) -> str:
    """`resnet18, 96 px, 8 ep., 3 seeds`; of a baseline no epochs, since it takes no training."""
    epochs = f", {row.epochs} ep." if row.epochs is not None else ""
    seeds = f", {row.seeds} seeds" if row.seeds > 1 else ""
    return f"{row.backbone}, {row.image_size} px{epochs}{seeds}"


def centre(score: Score) -> str:
    """In %, of several seeds with the standard deviation: `98.77 ±1.2`."""
    spread = f" ±{100 * score.spread:.1f}" if score.spread is not None else ""
    return f"{100 * score.value:.2f}{spread}"


def interval(score: Score) -> str:
    """In %: `97.4–98.7`."""
    low, high = score.interval
    return f"{100 * low:.1f}–{100 * high:.1f}"


def percent(value: float | None) -> str:
    """`96.0` for 0.96."""
    return NOTHING if value is None else f"{100 * value:.1f}"


def count(value: int | None) -> str:
    """`3.50 M`, `12.3 k`, `0`."""
    if value is None:
        return NOTHING
    if value < 1000:
        return str(value)
    return f"{value / 1e6:.3g} M" if value >= 1e6 else f"{value / 1e3:.3g} k"


def speed(value: float | None) -> str:
    """Images a second to three figures."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def memory(value: int | None, *, most: bool = False) -> str:
    """`1.3 GB`, `640 MB`; `≤1.3 GB` where that is the most that it can be."""
    if not value:
        return NOTHING
    return ("≤" if most else "") + (f"{value / 1e9:.2g} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB")


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


FIGURES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("macro F1", lambda row: percent(row.macro_f1)),
    ("parameters", lambda row: count(row.parameters)),
    ("trainable", lambda row: count(row.trainable_parameters)),
    ("s per epoch", lambda row: _seconds(row.seconds_per_epoch)),
    *((f"images/s at {b}", lambda row, b=b: speed(row.images_per_second.get(b))) for b in BATCHES),
    ("peak memory", lambda row: memory(row.peak_memory, most=row.memory_shared)),
)
"""Heading and cell of what stands after the scores."""
