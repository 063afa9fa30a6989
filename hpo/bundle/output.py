"""Write predictions as JSON or CSV, row by row, so that any number of them fits into memory.

    JSON   [{"name", "label", "index", "probability", "probabilities": {class: p}, "abstained"}, …]
    CSV    name,label,index,probability,abstained,error,probability_<class>,…

With sets a JSON row has `prediction_set`, a list of class names, the most probable first; a CSV has the columns
`set_size` and `prediction_set`, the names joined by «; », at its end.

`index` is the class's number in classes.json of the bundle. Where the model abstained, `label` and `index` are null or
empty. An image that could not be read has a name and an `error` alone. In a CSV, text that a spreadsheet would take for
a formula follows an apostrophe: see `hpo.spreadsheet`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from hpo.errors import UsageError
from hpo.files import atomic_text_file
from hpo.spreadsheet import CsvRows
from hpo.strict_json import strict_json

if TYPE_CHECKING:
    from hpo.bundle.inputs import Prediction
    from hpo.data import Unreadable


STDOUT = "-"

UNDECODABLE = "backslashreplace"
"""Error handler for file names that are not UTF-8: a CSV has them escaped, as JSON does."""


class Writer(Protocol):
    """A sink of predictions, which gets them one by one."""

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""

    def write_unreadable(self, image: Unreadable) -> None:
        """Write an image that could not be read."""

    def close(self) -> None:
        """Write the end of the file."""

    def abort(self) -> None:
        """End a file that has begun, in place of `close`, where no more predictions come."""


class JsonWriter:
    """A JSON list with one object per line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._before = "[\n"

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""
        row = asdict(prediction)
        if prediction.abstained:
            row |= {"label": None, "index": None}
        if prediction.prediction_set is None:
            del row["prediction_set"]
        self._add(row)

    def write_unreadable(self, image: Unreadable) -> None:
        """Write an image that could not be read."""
        self._add({"name": image.name, "error": image.reason})

    def close(self) -> None:
        """End the list."""
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")

    def abort(self) -> None:
        """End the list if it has begun."""
        if self._before != "[\n":
            self.close()

    def _add(self, row: dict[str, Any]) -> None:
        self._file.write(self._before + strict_json(row))
        self._before = ",\n"


class CsvWriter:
    """A CSV with a header and one column per class; with `sets` two more."""

    def __init__(self, file: IO[str], classes: Sequence[str], *, sets: bool = False) -> None:
        self._rows, self._sets = CsvRows(file), sets
        last = [*(f"probability_{name}" for name in classes), *(("set_size", "prediction_set") if sets else ())]
        self._rows.write(["name", "label", "index", "probability", "abstained", "error", *last])
        self._blank = [""] * len(last)

    def write(self, prediction: Prediction) -> None:
        """Write one prediction."""
        answer = ("", "") if prediction.abstained else (prediction.label, prediction.index)
        confidence = (prediction.probability, str(prediction.abstained).lower(), "")
        members = prediction.prediction_set or ()
        sets = (len(members), "; ".join(members)) if self._sets else ()
        self._rows.write([prediction.name, *answer, *confidence, *prediction.probabilities.values(), *sets])

    def write_unreadable(self, image: Unreadable) -> None:
        """Write an image that could not be read."""
        self._rows.write([image.name, "", "", "", "", image.reason, *self._blank])

    def close(self) -> None:
        """Do nothing: a CSV has no end."""

    def abort(self) -> None:
        """Do nothing: a CSV has no end."""


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
def open_output(out: str, classes: Sequence[str], *, sets: bool = False) -> Iterator[Writer]:
    """Yield a writer to `out`; a file appears when all has been written, and not at all after an exception.

    `sets` says whether the predictions have sets.
    """
    check_output(out)
    if out == STDOUT:
        yield from _closing(JsonWriter(sys.stdout))
        return
    path = Path(out)
    with atomic_text_file(path, UNDECODABLE) as file:
        is_csv = path.suffix.lower() == ".csv"
        yield from _closing(CsvWriter(file, classes, sets=sets) if is_csv else JsonWriter(file))


def _closing(writer: Writer) -> Iterator[Writer]:
    """Yield the writer and end it, also after an exception, so that stdout holds whole JSON."""
    try:
        yield writer
    except BaseException:
        writer.abort()
        raise
    writer.close()
