"""Cards side by side in one picture: image, heat, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from hpo.errors import UsageError
from hpo.explain.card import overlay
from hpo.files import atomic_file

if TYPE_CHECKING:
    from hpo.data.dataset import Images
    from hpo.explain.card import (
        Card,
    )


PICTURE, GAP, MARGIN = 176, 6, 14
"""Pixels: side of a picture, between two of a card, between cards."""

FONT, LINE = 13, 18
"""Pixels: height of letters and of lines."""

MOST_COLUMNS = 4

PAPER, INK, FAINT = "white", "#1a1a1a", "#666666"


def check_png(path: Path) -> None:
    """UsageError unless a .png may be written to `path`; call it before the work."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out is {path}, but must end in .png")
    if path.is_dir():
        raise UsageError(f"--out is {path}, but that is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"--out is {path}, but there is no folder {path.parent}; make it first")


def write_png(sheet: Image.Image, path: Path) -> None:
    """Write `sheet` to `path`, whole or not at all."""
    with atomic_file(path) as file:
        sheet.save(file, format="PNG", optimize=True)


def draw_sheet(cards: Sequence[Card], title: str) -> Image.Image:
    """RGB picture of all `cards`, in rows, under `title`."""
    columns = min(MOST_COLUMNS, len(cards))
    lines = 1 + max(len(card.lines) for card in cards)
    width, height = 2 * PICTURE + GAP, PICTURE + GAP + lines * LINE
    rows = -(-len(cards) // columns)
    top = 2 * MARGIN + LINE
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, top + rows * (height + MARGIN)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), _fitted(title, sheet.width - 2 * MARGIN), INK, _font(bold=True))
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        _draw_card(sheet, card, MARGIN + column * (width + MARGIN), top + row * (height + MARGIN))
    return sheet


def _draw_card(sheet: Image.Image, card: Card, left: int, top: int) -> None:
    sheet.paste(_picture(card.image), (left, top))
    sheet.paste(_picture(overlay(card.image, card.heat)), (left + PICTURE + GAP, top))
    pen = ImageDraw.Draw(sheet)
    texts = [*((line, INK) for line in card.lines), (card.title, FAINT)]
    for number, (text, colour) in enumerate(texts):
        place = (left, top + PICTURE + GAP + number * LINE)
        pen.text(place, _fitted(text, 2 * PICTURE + GAP), colour, _font(bold=number == 0))


def _picture(image: Images) -> Image.Image:
    return Image.fromarray(image).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)


def _fitted(text: str, width: int) -> str:
    """`text`, its middle left out where it is wider than `width` pixels in bold."""
    font, kept = _font(bold=True), text
    while font.getlength(kept) > width and len(text) > 1:
        text = text[: len(text) // 2] + text[len(text) // 2 + 1 :]
        kept = f"{text[: len(text) // 2]}…{text[len(text) // 2 :]}"
    return kept


def _font(*, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of matplotlib: the same on every machine, with letters of most scripts."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", name)), FONT)
