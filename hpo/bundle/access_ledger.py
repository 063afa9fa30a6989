"""The ledger of test accesses: every use of a test part, recorded before it happens and counted per test part.

A test part is known by the digest of its images, so that a renamed folder or another study with the same split has the
same test part. An access is recorded in the bundle that is measured, in a file of HOME and, where a command gives one,
in a store that is shared (a database); the records of all of them count, and the bundle gets a copy of them. To measure
the same model again chooses nothing. To measure several models does: the test figure of the best one is biased upwards,
the more so the more models there are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpo.bundle.model_card import refresh_card
from hpo.bundle.stored_metrics import (
    Opening,
    add_openings,
    merged_openings,
    openings_of,
    record_opening,
    record_result,
)
from hpo.errors import HpoError
from hpo.files import append_line
from hpo.strict_json import strict_json

HOME = ".hpo"
"""The HOME of commands that are given none."""

FILE = "test-openings.jsonl"
"""In HOME: one JSON object a line, the opening as the bundle has it; a later line of the same access has its result."""


@dataclass(frozen=True)
class AccessCounts:
    """Counts of the accesses to one test part."""

    count: int
    models: int
    """Different models that were measured on it."""
    unnamed: int = 0
    """Accesses recorded by an earlier version of hpo, which did not record the model."""

    @classmethod
    def of(cls, openings: Iterable[Opening]) -> AccessCounts:
        """Count the records of one test part."""
        models = [str(one.get("model") or "") for one in openings]
        return cls(len(models), len({model for model in models if model}), sum(not model for model in models))

    @property
    def line(self) -> str:
        """The line that readers of the test figures must see."""
        if self.count == 1:
            return "the test part was opened for the first time"
        unnamed = f", {self.unnamed} of these with a model that is not known" if self.unnamed else ""
        if self.models <= 1:
            always = unnamed or ", always with this model"
            return f"the test part was opened {self.count} times by now{always}"
        return (
            f"{self.models} different models were measured on this test part by now (opened {self.count} times"
            f"{unnamed}): the best of several test figures is biased upwards, so choose by validation and believe only "
            "the test figure of the one that was chosen"
        )


class SharedAccesses(Protocol):
    """A store of test accesses beside the bundle and HOME; it reports its faults itself and raises none."""

    def write(self, opening: Opening) -> None:
        """Write a record, or its result into the record that is there."""

    def read(self, test: str) -> list[dict[str, Any]]:
        """Return the records of the test part with the digest `test`."""


class AccessLedger:
    """The records of test access of one HOME and, where there is one, of a shared store.

    Without either, only the bundles keep records.
    """

    def __init__(self, home: Path | None = None, shared: SharedAccesses | None = None) -> None:
        self._path = home / FILE if home is not None else None
        self._shared = shared

    @classmethod
    def of_user(cls) -> AccessLedger:
        """Return the ledger of a Python program that names none: of the HOME that commands would take, if it is there.

        It is the folder in the variable HPO_HOME, else `.hpo`. A database is not looked for.
        """
        home = Path(os.environ.get("HPO_HOME") or HOME)
        return cls(home if home.is_dir() else None)

    def begin(self, bundle: Path, opening: Opening) -> AccessCounts:
        """Record the access to the test part `opening["test"]` that is about to happen; return all counts so far.

        The bundle gets a copy of all earlier records of that test part too. Raises HpoError where HOME's file cannot be
        written: no access happens without a record.
        """
        self._write(opening)
        record_opening(bundle, opening)
        return self.carry(bundle, opening)

    def carry(self, bundle: Path, opening: Opening) -> AccessCounts:
        """Copy the records of the test part of `opening` of all commands into the bundle; return their counts."""
        known = self.openings(bundle, opening)
        add_openings(bundle, known)
        return AccessCounts.of(known)

    def end(self, bundle: Path, opening: Opening, accuracy: float, **metrics: Any) -> None:
        """Write the result of the access into its records, and `metrics` into the bundle, with its model card anew."""
        record_result(bundle, opening, accuracy, **metrics)
        refresh_card(bundle)
        self._write({**opening, "accuracy": accuracy})

    def counts(self, bundle: Path, opening: Opening) -> AccessCounts:
        """Count all accesses to the test part of `opening`."""
        return AccessCounts.of(self.openings(bundle, opening))

    def openings(self, bundle: Path, opening: Opening) -> list[dict[str, Any]]:
        """Return the records of all accesses to the test part of `opening`, in the order of their dates."""
        in_home = list(read_lines(self._path)) if self._path is not None else []
        in_shared = self._shared.read(str(opening["test"])) if self._shared is not None else []
        known = merged_openings(in_home, in_shared, openings_of(bundle))
        return [one for one in known if _is_of_same_test(one, opening)]

    def _write(self, opening: Opening) -> None:
        if self._path is not None:
            _append(self._path, opening)
        if self._shared is not None:
            self._shared.write(opening)


def _append(path: Path, opening: Opening) -> None:
    try:
        append_line(path, strict_json(dict(opening)))
    except OSError as error:
        raise HpoError(
            f"{path} cannot be written ({error.strerror}), so an access to the test part would go unrecorded; "
            "give a --home that can be written"
        ) from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects in a file of `append_line`; nothing where there is no file."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            # A kill cut the line off. Its access never happened, as it comes after the write.
            continue
        if isinstance(values, dict):
            yield values


def _is_of_same_test(one: Opening, opening: Opening) -> bool:
    # Earlier versions of hpo recorded the data, but not the test part.
    if one.get("test"):
        return bool(one["test"] == opening["test"])
    return bool(one.get("data") == opening["data"])
