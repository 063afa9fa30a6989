"""Every look at a test part: recorded before it happens, counted per test part, whichever model or bundle it is with.

A test part is known by the digest of its images, so that a renamed folder or another study of the same split is the
same test part. A look is recorded in the bundle that was measured, in a file of HOME, and in a database where the
command has one at hand; what any of these knows counts. To measure the same model again is no new choice. To measure
several models is one: the best of them owes part of its figure to chance, all the more the more there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.bundle.bundle import merged_openings, openings_of, record_opening, record_result
from hpo.errors import HpoError
from hpo.files import append_line
from storage import Database, StorageError, read_openings, write_opening

FILE = "test-openings.jsonl"
"""In HOME: one JSON object a line, the opening as the bundle has it; a later line of the same look holds its result."""

Opening = Mapping[str, Any]


@dataclass(frozen=True)
class Looks:
    """What is known of the looks at one test part."""

    count: int
    models: int
    """Different models that were measured on it."""
    unnamed: int = 0
    """Looks that an earlier version of hpo recorded, which did not say with which model."""

    @classmethod
    def of(cls, openings: Iterable[Opening]) -> Looks:
        """The looks that were recorded."""
        models = [str(one.get("model") or "") for one in openings]
        return cls(len(models), len({model for model in models if model}), sum(not model for model in models))

    @property
    def line(self) -> str:
        """What a reader of the figures must know of the looks, in one line."""
        if self.count == 1:
            return "the test part was opened for the first time"
        unnamed = f", {self.unnamed} of these with a model that is not known" if self.unnamed else ""
        if self.models <= 1:
            always = unnamed or ", always with this model"
            return f"the test part was opened {self.count} times by now{always}"
        return (
            f"{self.models} different models were measured on this test part by now ({self.count} looks{unnamed}): the "
            "best of several looks better on it than it will on new images, so choose by validation and believe only "
            "the test figure of the one that was chosen"
        )


class Ledger:
    """The record of looks of one HOME and, where there is one, of a database."""

    def __init__(
        self,
        home: Path | None = None,
        connect: Callable[[], AbstractContextManager[Database]] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`connect` gives the database for the length of a block; `tell` hears where it cannot be reached.

        Without `home` and `connect` the bundles alone remember.
        """
        self._path = home / FILE if home is not None else None
        self._connect, self._tell = connect, tell

    def begin(self, bundle: Path, opening: Opening) -> Looks:
        """Record a look at the test part `opening["test"]` with the bundle, which is about to happen; all looks by now.

        HpoError where HOME's file cannot be written: the look shall not happen unrecorded.
        """
        self._write(opening)
        record_opening(bundle, opening)
        return self.looks(bundle, opening)

    def end(self, bundle: Path, opening: Opening, accuracy: float, **metrics: Any) -> None:
        """Write what the look gave into its records, and `metrics` into the bundle."""
        record_result(bundle, opening, accuracy, **metrics)
        self._write({**opening, "accuracy": accuracy})

    def looks(self, bundle: Path, opening: Opening) -> Looks:
        """All looks at the test part of `opening`, those of earlier versions of hpo too, which know its data alone."""
        return Looks.of(self.openings(bundle, opening))

    def openings(self, bundle: Path, opening: Opening) -> list[dict[str, Any]]:
        """The records of these looks, in the order of their dates."""
        known = merged_openings(self._of_file(), self._of_database(str(opening["test"])), openings_of(bundle))
        return [one for one in known if _same_test(one, opening)]

    def _write(self, opening: Opening) -> None:
        if self._path is not None:
            _append(self._path, opening)
        self._with_database(lambda db: write_opening(db, opening))

    def _of_file(self) -> list[dict[str, Any]]:
        return list(read_lines(self._path)) if self._path is not None else []

    def _of_database(self, test: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        self._with_database(lambda db: found.extend(read_openings(db, test)))
        return found

    def _with_database(self, act: Callable[[Database], None]) -> None:
        """`act` on the database, where there is one; one that cannot be reached is told of once, and then left out."""
        if self._connect is None:
            return
        try:
            with self._connect() as db:
                act(db)
        except StorageError as error:
            self._connect = None
            self._tell(f"looks at the test part are counted without the database: {error}")


def _append(path: Path, opening: Opening) -> None:
    try:
        append_line(path, json.dumps(dict(opening)))
    except OSError as error:
        raise HpoError(
            f"{path} cannot be written ({error.strerror}), so a look at the test part would go unrecorded; "
            "give a --home that can be written"
        ) from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of `append_line`; nothing where there is none.

    A line that is no object was cut off by a kill before its look could happen: the look comes after the write.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            yield values


def _same_test(one: Opening, opening: Opening) -> bool:
    """Whether a record is of the same test part: by its digest, or by the data where it has none."""
    if one.get("test"):
        return bool(one["test"] == opening["test"])
    return bool(one.get("data") == opening["data"])
