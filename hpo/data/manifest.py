"""What a pack's manifest says: everything about its images but the pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data import digests
from hpo.data.dataset import LeftOut, PartName, Unreadable
from hpo.data.depth import depth_note, reached_levels, white_level
from hpo.data.names import shortened
from hpo.data.pipeline import Decoded
from hpo.data.records import Record

VERSION = 4
"""Of the pack: goes up when decoding, digests or these fields change, so that older packs are made anew."""
_NAMED = 3
"""Files that a note names."""


@dataclass(frozen=True)
class Manifest:
    """The readable images of a packed set, one entry per row, and what was skipped. `from_json(to_json(x)) == x`."""

    image_size: int
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    given: tuple[PartName | None, ...]
    stored: tuple[str, ...]
    """Digests of the images as they are stored."""
    pixels: tuple[str, ...]
    """Digests of the images at their stored size, as `decode.original` gives them: equal ones are duplicates."""
    unreadable: tuple[Unreadable, ...]
    fingerprint: str
    """Of the content of all images, the unreadable ones among them."""
    earlier_fingerprint: str = ""
    """The same over the names of classes as they are written, as earlier versions of hpo had it; "" where none differs.
    """
    left_out: tuple[LeftOut, ...] = ()
    """What lies in the data set and is not read, by kind."""
    notes: tuple[str, ...] = ()
    """What was understood of the data, or is suspicious about it; one line each."""
    white_level: int | None = None
    """The value of 16-bit images that became 255 (`depth`); None where no image needs one."""
    version: int = VERSION

    def __len__(self) -> int:
        return len(self.names)

    @property
    def label_array(self) -> npt.NDArray[np.int64]:
        """(M,) int64 class numbers."""
        return np.array(self.labels, dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        """Per image a name of its group of duplicates: the same at every image size, as all digests are."""
        first: dict[str, str] = {}
        for pixels, stored in zip(self.pixels, self.stored, strict=True):
            first[pixels] = min(stored, first.get(pixels, stored))
        return [first[pixels] for pixels in self.pixels]

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises ValueError, TypeError or KeyError where the text is no manifest of this version."""
        fields: Mapping[str, Any] = json.loads(text)
        if fields["version"] != VERSION:
            raise ValueError(f"version is {fields['version']}, but must be {VERSION}")
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        unreadable = tuple(Unreadable(**entry) for entry in fields["unreadable"])
        left_out = tuple(LeftOut(**{**entry, "names": tuple(entry["names"])}) for entry in fields["left_out"])
        manifest = cls(**{**fields, **lists, "unreadable": unreadable, "left_out": left_out})
        columns = (manifest.labels, manifest.given, manifest.stored, manifest.pixels)
        if any(len(column) != len(manifest) for column in columns):
            raise ValueError("the columns differ in length")
        return manifest


class ManifestDraft:
    """A manifest in the making: images are added in the order of the listing."""

    def __init__(
        self,
        image_size: int,
        classes: tuple[str, ...],
        left_out: tuple[LeftOut, ...] = (),
        notes: tuple[str, ...] = (),
        white: int | None = None,
        written: tuple[str, ...] = (),
    ) -> None:
        """`left_out`, `notes` and `written` are those of the listing; `white` is the white level for decoding."""
        self._image_size = image_size
        self._classes = classes
        self._left_out = left_out
        self._notes = list(notes)
        self._rows: list[tuple[Record, Decoded]] = []
        self._unreadable: list[Unreadable] = []
        self._content: list[tuple[int, str, str]] = []
        self._largest: Counter[int] = Counter()
        self._paged: list[tuple[str, int]] = []
        self._white = white
        self._written = written

    @property
    def own_white(self) -> int | None:
        """The white level that the 16-bit images added so far call for; None where there are none."""
        return white_level(max(self._largest)) if self._largest else None

    def add(self, record: Record, decoded: Decoded) -> None:
        """One image; its pixels are not kept."""
        self._content.append((record.label, record.given or "", decoded.stored))
        if decoded.pixels is None:
            self._unreadable.append(Unreadable(record.name, decoded.reason))
        else:
            self._rows.append((record, replace(decoded, pixels=None)))
        if decoded.largest is not None:
            self._largest[decoded.largest] += 1
        if decoded.pages > 1:
            self._paged.append((record.name, decoded.pages))

    def note(self, line: str) -> None:
        """Add a line to what is told about the data; the same line is told once."""
        if line not in self._notes:
            self._notes.append(line)

    def finish(self) -> Manifest:
        """The manifest of what was added."""
        white = (self._white or self.own_white) if self._largest else None
        if white:
            self.note(depth_note(reached_levels(self._largest), white))
        if self._paged:
            named = shortened([f"{name} ({pages})" for name, pages in self._paged], _NAMED)
            self.note(f"only the first page or frame is taken of files that hold several: {named}")
        return Manifest(
            image_size=self._image_size,
            classes=self._classes,
            names=tuple(record.name for record, _ in self._rows),
            labels=tuple(record.label for record, _ in self._rows),
            given=tuple(record.given for record, _ in self._rows),
            stored=tuple(decoded.stored for _, decoded in self._rows),
            pixels=tuple(decoded.seen for _, decoded in self._rows),
            unreadable=tuple(self._unreadable),
            fingerprint=self._fingerprint(self._classes),
            earlier_fingerprint=self._fingerprint(self._written) if self._written else "",
            left_out=self._left_out,
            notes=tuple(self._notes),
            white_level=white,
        )

    def _fingerprint(self, classes: tuple[str, ...]) -> str:
        return digests.fingerprint((classes[label], given, stored) for label, given, stored in self._content)
