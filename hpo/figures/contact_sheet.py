"""Sheets of labelled images: a table of rows and columns, or a grid of cards with captions; and their PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpo.data.dataset import Images
from hpo.errors import UsageError
from hpo.files import atomic_file

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont


class _Label(NamedTuple):
    """A line of text on a sheet."""

    place: tuple[float, float]
    text: str
    colour: str | tuple[int, int, int]
    font: Font
    anchor: str = "la"


def _draw(
    size: tuple[int, int], pictures: Iterable[tuple[Image.Image, tuple[int, int]]], labels: Iterable[_Label]
) -> Image.Image:
    """Return a white RGB sheet with `pictures` at their upper left corners, and `labels` over them."""
    sheet = Image.new("RGB", size, "white")
    for picture, corner in pictures:
        sheet.paste(picture, corner)
    pen = ImageDraw.Draw(sheet)
    for label in labels:
        pen.text(label.place, label.text, label.colour, label.font, anchor=label.anchor)
    return sheet


SMALLEST_TILE = 64
"""Side of an image in a table, in pixels; smaller images are enlarged by a whole factor."""

_GAP, _SPACE, _MARGIN = 2, 14, 16

_TITLE, _HEADING, _LABEL, _NOTE = (ImageFont.load_default(size) for size in (22, 17, 17, 13))

_INK, _GREY = (20, 20, 20), (95, 95, 95)


@dataclass(frozen=True)
class SheetRow:
    """A row of a table."""

    label: str
    note: str
    """A line in small print below the label; may be empty."""
    cells: Sequence[Images]
    """A cell for each column: (k, S, S, 3) uint8, with the same k and S in the whole sheet."""


@dataclass(frozen=True)
class _Layout:
    """Positions in a table, in pixels."""

    left: int
    """Left edge of the first column of cells."""
    top: int
    """Upper edge of the first row of cells."""
    tile: int
    """Side of an image as it is drawn."""
    each: int
    """Images in a cell."""

    @property
    def cell(self) -> int:
        """Width of a cell."""
        return self.each * (self.tile + _GAP) - _GAP

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Upper left corner of a cell."""
        return self.left + column * (self.cell + _SPACE), self.top + row * (self.tile + _SPACE)


def contact_sheet(title: str, columns: Sequence[str], rows: Sequence[SheetRow]) -> Image.Image:
    """Return the table of one row or more, large enough that no label is cut off."""
    each, size = rows[0].cells[0].shape[:2]
    tile = size * -(-SMALLEST_TILE // size)
    names = max(_width(text, font) for row in rows for text, font in ((row.label, _LABEL), (row.note, _NOTE)))
    layout = _Layout(left=2 * _MARGIN + names, top=_MARGIN + 72, tile=tile, each=each)
    right, bottom = layout.corner(len(rows), len(columns))
    width = max(right, _width(title, _TITLE) + 2 * _MARGIN)
    labels = [_Label((_MARGIN, _MARGIN), title, _INK, _TITLE)]
    for number, heading in enumerate(columns):
        middle = layout.corner(0, number)[0] + layout.cell / 2
        labels.append(_Label((middle, layout.top - 10), heading, _INK, _HEADING, "mb"))
    for number, row in enumerate(rows):
        middle = layout.corner(number, 0)[1] + tile / 2
        labels.append(_Label((_MARGIN, middle - (9 if row.note else 0)), row.label, _INK, _LABEL, "lm"))
        labels.append(_Label((_MARGIN, middle + 12), row.note, _GREY, _NOTE, "lm"))
    strips = [
        (Image.fromarray(_strip(images, tile)), layout.corner(number, column))
        for number, row in enumerate(rows)
        for column, images in enumerate(row.cells)
    ]
    return _draw((width - _SPACE + _MARGIN, bottom - _SPACE + _MARGIN), strips, labels)


def _strip(images: Images, tile: int) -> Images:
    """Return the k images (k, S, S, 3) side by side as one image, with white between them."""
    factor = tile // images.shape[1]
    large = images.repeat(factor, axis=1).repeat(factor, axis=2)
    padded = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-_GAP]


def _width(text: str, font: Font) -> int:
    return int(np.ceil(font.getlength(text)))


PICTURE, CARD_GAP, CARD_MARGIN = 176, 6, 14
"""Pixels: side of a picture on a card, distance of the two pictures of a card, distance of cards."""

MOST_COLUMNS = 4

_FONT_SIZE, _LINE = 13, 18
"""Pixels: height of letters and of lines on a card."""

_CARD_INK, _CARD_GREY = "#1a1a1a", "#666666"


@dataclass(frozen=True)
class SheetCard:
    """Two pictures side by side, with lines of text below them."""

    pictures: tuple[Images, Images]
    """(S, S, 3) uint8."""
    lines: Sequence[str]
    """The first line is drawn in bold."""
    source: str
    """The last line, in grey."""


def card_sheet(title: str, cards: Sequence[SheetCard]) -> Image.Image:
    """Return the grid of all `cards` below `title`, at most MOST_COLUMNS in a row."""
    columns = min(MOST_COLUMNS, len(cards))
    lines = 1 + max(len(card.lines) for card in cards)
    width, height = 2 * PICTURE + CARD_GAP, PICTURE + CARD_GAP + lines * _LINE
    top = 2 * CARD_MARGIN + _LINE
    size = (
        columns * (width + CARD_MARGIN) + CARD_MARGIN,
        top + -(-len(cards) // columns) * (height + CARD_MARGIN),
    )
    labels = [
        _Label((CARD_MARGIN, CARD_MARGIN), _fitted(title, size[0] - 2 * CARD_MARGIN), _CARD_INK, _font(bold=True))
    ]
    pictures = []
    for number, card in enumerate(cards):
        row, column = divmod(number, columns)
        x, y = CARD_MARGIN + column * (width + CARD_MARGIN), top + row * (height + CARD_MARGIN)
        pictures += [(_scaled(card.pictures[0]), (x, y)), (_scaled(card.pictures[1]), (x + PICTURE + CARD_GAP, y))]
        texts = [*((line, _CARD_INK) for line in card.lines), (card.source, _CARD_GREY)]
        for place, (text, colour) in enumerate(texts):
            corner = (x, y + PICTURE + CARD_GAP + place * _LINE)
            labels.append(_Label(corner, _fitted(text, width), colour, _font(bold=place == 0)))
    return _draw(size, pictures, labels)


def _scaled(image: Images) -> Image.Image:
    return Image.fromarray(image).resize((PICTURE, PICTURE), Image.Resampling.BICUBIC)


def _fitted(text: str, width: int) -> str:
    """Return `text`, with its middle left out if it is wider than `width` pixels in bold."""
    font, kept = _font(bold=True), text
    while font.getlength(kept) > width and len(text) > 1:
        text = text[: len(text) // 2] + text[len(text) // 2 + 1 :]
        kept = f"{text[: len(text) // 2]}…{text[len(text) // 2 :]}"
    return kept


@cache
def _font(*, bold: bool) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans from matplotlib: the same on every machine, with letters of most scripts."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path(), "fonts", "ttf", name)), _FONT_SIZE)


def check_png(path: Path) -> None:
    """Raise UsageError unless a .png may be written to `path`; call it before the work."""
    _check_suffix(path)
    if path.is_dir():
        raise UsageError(f"--out is {path}, but that is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"--out is {path}, but there is no folder {path.parent}; make it first")


def write_png(path: Path, sheet: Image.Image, *, optimize: bool = False) -> None:
    """Write the sheet to `path` atomically, in a folder that is made if missing; UsageError for another suffix.

    `optimize` makes a smaller file, which takes seconds for a large sheet.
    """
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        sheet.save(file, format="PNG", optimize=optimize)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out is {path}, but must end in .png")
