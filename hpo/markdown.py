"""Markdown documents: tables, paragraphs, and text that comes from data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NOTHING = "–"
"""Cell of a table without a value."""

_SPECIAL = re.compile(r"[\\`*_\[\]<>#~&]")


def to_document(title: str, parts: Iterable[str], notes: Iterable[str]) -> str:
    """Return a Markdown document: the title, the headings and tables, and a paragraph for each note."""
    return "\n".join([f"# {title}\n", *parts, *(f"{note}\n" for note in notes)])


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a table whose first `left` columns are aligned left and whose others right."""
    rule = ["---" if place < left else "---:" for place in range(len(header))]
    lines = [header, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def literal(text: str) -> str:
    """Return `text`, as the name of a class, so that Markdown shows it as it is: in one line, without markup.

    A bar is left alone, as `to_markdown` treats those in its cells.
    """
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", " ".join(text.split()))
