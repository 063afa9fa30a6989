"""Thumbnails of a data set for its page: small JPEGs inside the page, whose number is bounded."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpo.inspection.inspected_data import InspectedData
from hpo.report.wording import printable, shortened

SIDE = 88
"""Side of a thumbnail, in pixels: some 4 kB each."""

MOST = 560
"""Most thumbnails on one page."""

QUALITY = 82


@dataclass(frozen=True)
class Thumbnail:
    """One image with what is written below it. The page escapes all texts."""

    uri: str
    name: str
    """Its file, for the tooltip."""
    lines: tuple[str, ...] = ()
    """Lines below it; the first is in ink, the others are muted."""
    marked: bool = False
    """Whether it is shown as left out."""


@dataclass
class Thumbnails:
    """Makes thumbnails until their number is used up; each image is encoded once."""

    data: InspectedData
    most: int = MOST
    made: dict[int, str] = field(default_factory=dict)
    shown: int = 0

    def __post_init__(self) -> None:
        self.row_of = {name: row for row, name in enumerate(self.data.names)}

    @property
    def left(self) -> int:
        """How many more may be shown."""
        return max(0, self.most - self.shown)

    def rows(self, files: Iterable[str]) -> list[int]:
        """Return the rows of the files that are images of the data set."""
        return [self.row_of[file] for file in files if file in self.row_of]

    def label(self, row: int) -> str:
        """Return the name of the image's class."""
        return self.data.classes[int(self.data.labels[row])]

    def of(self, row: int, *lines: str, marked: bool = False) -> Thumbnail:
        """Return the thumbnail of a row; with an empty picture when the number is used up."""
        uri = self.made.get(row, "")
        if not uri and self.left:
            uri = self.made[row] = jpeg_uri(np.asarray(self.data.images[row]))
        self.shown += bool(uri)
        return Thumbnail(
            uri, printable(self.data.names[row]), tuple(shortened(line, 40) for line in lines if line), marked
        )

    def strip(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[Thumbnail]:
        """Return thumbnails without text."""
        return [self.of(int(row)) for row in rows]


def jpeg_uri(image: npt.NDArray[np.uint8], side: int = SIDE) -> str:
    """Return (H, W, 3) uint8 RGB as `data:image/jpeg;base64,…`, reduced to a larger side of at most `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, format="jpeg", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def evenly(rows: Sequence[int] | npt.NDArray[np.int64], most: int) -> list[int]:
    """Return at most `most` of the rows, at even distances."""
    if len(rows) <= most:
        return [int(row) for row in rows]
    places = np.linspace(0, len(rows) - 1, most).round().astype(int)
    return [int(rows[place]) for place in places]
