"""Where predictions go: JSON or CSV, row by row, so that their number does not matter.

    JSON   [{"name", "label", "index", "probability", "probabilities": {class: p}, "abstained"}, …]
    CSV    name,label,index,probability,abstained,error,probability_<class>,…

`index` is the class's number, as classes.json of the bundle has it. Where the model abstained, `label` and `index` are
null or empty. An image that could not be read has a name and an `error` alone. In a CSV, text that a spreadsheet would
take for a formula stands behind an apostrophe: see `hpo.spreadsheet`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from hpo.errors import UsageError
from hpo.files import atomic_text_file
from hpo.spreadsheet import plain_row
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from hpo.bundle.inputs import Prediction
    from hpo.data import Unreadable


STDOUT = "-"

UNDECODABLE = "backslashreplace"
"""How a file name that is not UTF-8 is written into a CSV: escaped, as JSON has it too."""


class Writer(Protocol):
    """Takes predictions one by one."""

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""

    def write_unreadable(self, image: Unreadable) -> None:
        """Write an image that could not be read."""

    def close(self) -> None:
        """Write what ends the file."""

    def break_off(self) -> None:
        """End what has been begun, in place of `close`, where no more can be written."""


class JsonWriter:
    """A JSON list with one object per line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._before = "[\n"

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""
        unsaid = {"label": None, "index": None} if prediction.abstained else {}
        self._add(asdict(prediction) | unsaid)

    def write_unreadable(self, image: Unreadable) -> None:
        """Write an image that could not be read."""
        self._add({"name": image.name, "error": image.reason})

    def close(self) -> None:
        """End the list."""
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")

    def break_off(self) -> None:
        """End the list, if it has begun."""
        if self._before != "[\n":
            self.close()

    def _add(self, row: dict[str, Any]) -> None:
        self._file.write(self._before + strict_json(row))
        self._before = ",\n"


class CsvWriter:
    """A CSV with a header and one column per class."""

    def __init__(self, file: IO[str], classes: Sequence[str]) -> None:
        self._rows = csv.writer(file, lineterminator="\n")
        probabilities = (f"probability_{name}" for name in classes)
        self._write(["name", "label", "index", "probability", "abstained", "error", *probabilities])
        self._blank = [""] * len(classes)

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""
        said = ("", "") if prediction.abstained else (prediction.label, prediction.index)
        sure = (prediction.probability, str(prediction.abstained).lower(), "")
        self._write([prediction.name, *said, *sure, *prediction.probabilities.values()])

    def write_unreadable(self, image: Unreadable) -> None:
        """Write an image that could not be read."""
        self._write([image.name, "", "", "", "", image.reason, *self._blank])

    def close(self) -> None:
        """Nothing ends a CSV."""

    def break_off(self) -> None:
        """Nothing ends a CSV."""

    def _write(self, cells: Sequence[object]) -> None:
        self._rows.writerow(plain_row(cells))


def check_output(out: str) -> None:
    """Raise UsageError unless `out` can be written: a .json, a .csv, or `-` for JSON on stdout."""
    path = Path(out)
    if out == STDOUT:
        return
    if path.suffix.lower() not in (".json", ".csv"):
        raise UsageError(f"--out is {out}, but must end in .json or .csv, or be - for JSON on stdout")
    if path.is_dir():
        raise UsageError(f"--out is {out}, but that is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"--out is {out}, but there is no folder {path.parent}; make it first")


@contextmanager
def open_output(out: str, classes: Sequence[str]) -> Iterator[Writer]:
    """A writer to `out`; a file appears once all has been written, and not at all after an exception."""
    check_output(out)
    if out == STDOUT:
        yield from _closed(JsonWriter(sys.stdout))
        return
    path = Path(out)
    with atomic_text_file(path, UNDECODABLE) as file:
        yield from _closed(CsvWriter(file, classes) if path.suffix.lower() == ".csv" else JsonWriter(file))


def _closed(writer: Writer) -> Iterator[Writer]:
    """The writer, ended however it is left: what stands on stdout by then is to be whole JSON."""
    try:
        yield writer
    except BaseException:
        writer.break_off()
        raise
    writer.close()
