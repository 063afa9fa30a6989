"""The images that a contact sheet shows.

A contact sheet: rows and columns of cells, each of some small images side by side, with labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpo.data.dataset import Images, Labels
from hpo.data.decode import fit, pillow_unheard
from hpo.data.formats import is_image
from hpo.data.sources import existing, open_source
from hpo.data.synthetic import CELL_CLASSES, draw_cell
from hpo.errors import DataError, UsageError
from hpo.files import atomic_file


def sample_images(path: Path | None, count: int, size: int, seed: int) -> Images:
    """`count` images (count, S, S, 3) uint8, S = `size`, of as many classes as can be, drawn from `seed`.

    Of the data set at `path`, of which no other image is decoded; the image itself, alone, where `path` is one; drawn
    cells for None. DataError where there is nothing to be had.
    """
    rng = np.random.default_rng(seed)
    if path is None:
        labels = rng.permutation(np.arange(max(count, len(CELL_CLASSES))) % len(CELL_CLASSES))[:count]
        return np.stack([draw_cell(int(label), seed + number, size) for number, label in enumerate(labels)])
    if existing(path).is_file() and is_image(path.name):
        try:
            return fit(path.read_bytes(), size)[None]
        except DataError as error:
            raise DataError(f"{path}: {error}; give an image that can be read") from None
    return _of_source(path, count, size, rng)


def _of_source(path: Path, count: int, size: int, rng: np.random.Generator) -> Images:
    source = open_source(path)
    listing = source.listing()
    if not listing.records:
        raise DataError(f"{path} holds no image: give a data set with some, or one image")
    wanted = _spread(listing.labels, count, rng)
    found: dict[int, Images] = {}
    with pillow_unheard(), source.reads() as reads:
        for row, read in zip(range(max(wanted) + 1), reads, strict=False):
            if row in wanted:
                try:
                    found[row] = fit(read(), size)
                except DataError as error:
                    raise DataError(f"{listing.records[row].name} in {path}: {error}") from None
    return np.stack([found[row] for row in wanted])


def _spread(labels: Labels, count: int, rng: np.random.Generator) -> list[int]:
    """`count` rows, or all where there are fewer: one of each class in turn, classes and rows in random order."""
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        place[of_class] = np.arange(len(of_class))
    return [int(row) for row in shuffled[np.argsort(place[shuffled], kind="stable")][:count]]


SMALLEST_TILE = 64
"""Side in pixels; smaller images are enlarged by a whole factor."""

_GAP, _SPACE, _MARGIN = 2, 14, 16

_TITLE, _HEADING, _LABEL, _NOTE = (ImageFont.load_default(size) for size in (22, 17, 17, 13))

_INK, _GREY = (20, 20, 20), (95, 95, 95)


@dataclass(frozen=True)
class SheetRow:
    """A row of the sheet."""

    label: str
    note: str
    """A line in small print below the label; may be empty."""
    cells: Sequence[Images]
    """A cell for each column: (k, S, S, 3) uint8, k and S the same in the whole sheet."""


@dataclass(frozen=True)
class _Layout:
    """Where things lie, in pixels."""

    left: int
    """Of the first column of cells: what the labels leave."""
    top: int
    """Of the first row of cells."""
    tile: int
    """Side of an image as it is drawn."""
    each: int
    """Images to a cell."""

    @property
    def cell(self) -> int:
        """Width of a cell."""
        return self.each * (self.tile + _GAP) - _GAP

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Upper left corner of a cell."""
        return self.left + column * (self.cell + _SPACE), self.top + row * (self.tile + _SPACE)


def contact_sheet(title: str, columns: Sequence[str], rows: Sequence[SheetRow]) -> Image.Image:
    """The sheet of one row or more, on white, as large as it must be for every label to be seen whole."""
    each, size = rows[0].cells[0].shape[:2]
    tile = size * -(-SMALLEST_TILE // size)
    labels = max(_width(text, font) for row in rows for text, font in ((row.label, _LABEL), (row.note, _NOTE)))
    layout = _Layout(left=2 * _MARGIN + labels, top=_MARGIN + 72, tile=tile, each=each)
    right, bottom = layout.corner(len(rows), len(columns))
    width = max(right, _width(title, _TITLE) + 2 * _MARGIN)
    sheet = Image.new("RGB", (width - _SPACE + _MARGIN, bottom - _SPACE + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), title, _INK, _TITLE)
    for number, heading in enumerate(columns):
        middle = layout.corner(0, number)[0] + layout.cell / 2
        pen.text((middle, layout.top - 10), heading, _INK, _HEADING, anchor="mb")
    for number, row in enumerate(rows):
        _draw_row(sheet, pen, row, number, layout)
    return sheet


def write_png(path: Path, sheet: Image.Image) -> None:
    """Make `path` the sheet, whole or not at all; UsageError where the name is not that of a PNG."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out is {path}, but must end in .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        sheet.save(file, format="PNG")


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, row: SheetRow, number: int, layout: _Layout) -> None:
    middle = layout.corner(number, 0)[1] + layout.tile / 2
    pen.text((_MARGIN, middle - (9 if row.note else 0)), row.label, _INK, _LABEL, anchor="lm")
    pen.text((_MARGIN, middle + 12), row.note, _GREY, _NOTE, anchor="lm")
    for column, images in enumerate(row.cells):
        sheet.paste(Image.fromarray(_strip(images, layout.tile)), layout.corner(number, column))


def _strip(images: Images, tile: int) -> Images:
    """(k, S, S, 3) to one image of k tiles with white between them."""
    factor = tile // images.shape[1]
    large = images.repeat(factor, axis=1).repeat(factor, axis=2)
    padded = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-_GAP]


def _width(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> int:
    return int(np.ceil(font.getlength(text)))
