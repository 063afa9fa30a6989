"""The table in terminals of many widths: what gives way, and that nothing is cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from hpo.evaluation.intervals import Score
from hpo.experiments.comparison import ComparisonRow
from hpo.experiments.comparison_table import print_comparison, wrapped

from .conftest import ABOUT, row

SPREAD = Score(0.98765, (0.98, 0.99), 1710, 0.0123)
LONG = "a-preset-with-quite-a-long-name:epochs=3,batch_size=64"
ROWS = [
    row(LONG, 0.9812, seeds=3, backbone="deepefficientnet", memory_shared=True),
    row("majority-class", 0.24, parameters=0, trainable_parameters=0, notes=("fell ill",), epochs=None),
    replace(row("seeds", None), validation=SPREAD, corrupted=SPREAD, test=SPREAD),
]


def printed(width: int, rows: Sequence[ComparisonRow] = ROWS) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_comparison(console, rows, ABOUT)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def left_out(text: str) -> list[str]:
    listed = " ".join(text.split()).partition("left out: ")[2].partition("; ")[0]
    return listed.split(", ") if listed else []


def test_all_columns_fit_a_terminal_of_140_columns() -> None:
    text = printed(140)
    assert not left_out(text)
    assert max(map(len, text.splitlines())) <= 140
    assert all(part in text for part in ("98.77 ±1.2", "≤1.3 GB", "majority-class: fell ill"))


@pytest.mark.parametrize("width", [40, 50, 60, 70, 80, 90, 100, 110])
def test_a_narrow_terminal_drops_whole_columns_and_cuts_no_text(width: int) -> None:
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert all(whole in text for whole in ("98.77 ±1.2", "98.12", "24.00", "majority-class", "deepefficientnet"))
    names = [line[:20].strip() for line in text.splitlines()]
    assert any(line.startswith("a-preset-with-") for line in names)


def test_the_least_important_columns_are_dropped_first_and_named() -> None:
    assert left_out(printed(120)) == ["images/s"]
    assert left_out(printed(100)) == ["images/s", "memory", "s/epoch", "trainable"]
    assert left_out(printed(80))[-1] == "macro F1"


def test_one_line_names_dropped_columns_and_where_they_are() -> None:
    (line,) = [line for line in printed(100).splitlines() if line.startswith("left out: ")]
    assert line.endswith("; table.md/csv of --out have all")


def test_intervals_are_dropped_before_a_score() -> None:
    plain = [row("a-name-of-24-characters-", 0.9), row("b", 0.5)]
    assert all(interval in printed(70, plain) for interval in ("95.7–97.9", "58.6–61.3"))
    text = printed(68, plain)
    assert left_out(text)[-1] == "intervals"
    assert "95.7–97.9" not in text
    assert all(score in text for score in ("90.00", "60.00", "97.00"))


def test_names_use_the_remaining_width() -> None:
    assert LONG in printed(170)


def test_words_stay_whole_in_the_narrowest_terminal() -> None:
    assert any(line.startswith("deepefficientnet,") for line in printed(20).splitlines())


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("short", 10, "short"),
        ("resnet18, 96 px, 8 ep.", 12, "resnet18,\n96 px, 8 ep."),
        ("convnext-small-selective", 16, "convnext-small-\nselective"),
        ("quick:learning_rate=1e-3,epochs=2", 20, "quick:\nlearning_rate=1e-3,\nepochs=2"),
        ("fb_in22k_ft", 9, "fb_in22k_\nft"),
        ("indivisible", 4, "indivisible"),
    ],
)
def test_a_name_is_broken_between_words_only(text: str, width: int, expected: str) -> None:
    assert wrapped(text, width) == expected
