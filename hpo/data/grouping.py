"""Groups of images that must stay in one part: the values of a column, or of a regular expression on the file names.

Copies of one picture form groups too. Two groups that share a copy are united, since a copy in another part would
reveal what the part measures.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hpo.data.dataset import PartName
from hpo.data.names import shortened
from hpo.data.records import Source
from hpo.data.tables import TableSource
from hpo.errors import DataError, UsageError

_NAMED = 3
"""The number of images or groups that a message names."""

_LONGEST_PATTERN = 500

MATCH_SECONDS = 30.0
"""The time that a regular expression may take on all names."""

_MATCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = re.compile(pattern)
chosen = sorted(found.groupindex.values()) or range(1, found.groups + 1)
def value(name):
    match = found.search(name)
    return next((match[at] for at in chosen if match[at]), None) if match else None
json.dump([value(name) for name in names], sys.stdout)
"""
"""Matches in a process of its own: `re` cannot be interrupted, and a nested quantifier can take years."""


@dataclass(frozen=True)
class Grouping:
    """The group of every image, by one rule."""

    word: str
    """The name of the groups for people: that of the column, or the regular expression."""
    values: tuple[str, ...]
    """n names of groups."""
    column: str | None = None
    """The name of the column, as the header writes it; None for a regular expression."""

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(set(self.values))


def group_images(source: Source, names: Sequence[str], group_by: str) -> Grouping:
    """Return the groups of the images `names` (n) of `source` by a column of its table, or by a regular expression.

    The expression is searched in the path of the image below DATA; its named groups, else its first group that matches,
    is the name of the group. Raise UsageError for an expression that cannot serve, DataError where images have no group
    or all have the same one.
    """
    columns = source.columns() if isinstance(source, TableSource) else {}
    written = next((name for name in columns if _plain(name) == _plain(group_by)), None)
    if written is not None:
        found = source.column(written) if isinstance(source, TableSource) else {}
        grouping = Grouping(written, tuple(found[name] for name in names), written)
    else:
        _check_pattern(group_by, source, tuple(columns))
        grouping = Grouping(f"«{group_by}»", tuple(value or "" for value in _match_names(group_by, names)))
    _refuse_without_group(grouping, names)
    return grouping


def _plain(name: str) -> str:
    return name.strip().casefold()


def _check_pattern(pattern: str, source: Source, columns: Sequence[str]) -> None:
    """Raise UsageError unless `pattern` is a regular expression with a group."""
    there = f"has the columns {', '.join(columns)} to group by" if columns else "has no column to group by"
    hint = r"give a regular expression with a group, such as 'patient_(\d+)_'"
    if not pattern or len(pattern) > _LONGEST_PATTERN:
        raise UsageError(
            f"--group-by has {len(pattern):,} letters, but must have 1 to {_LONGEST_PATTERN}: name a column, or {hint}"
        )
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"--group-by {pattern!r} is not a regular expression ({error}): {hint}") from None
    if not groups:
        raise UsageError(f"--group-by {pattern!r} has no group in parentheses, and {source.path} {there}: {hint}")


def _match_names(pattern: str, names: Sequence[str]) -> list[str | None]:
    """Return the group of each name, None where the pattern does not match; bounded in time."""
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _MATCH]
    try:
        done = subprocess.run(
            command, input=json.dumps([pattern, list(names)]), capture_output=True, text=True, check=True,
            timeout=MATCH_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"--group-by {pattern!r} takes more than {MATCH_SECONDS:g} s on {len(names):,} names, as nested "
            r"repetitions do: write it simpler, such as 'patient_(\d+)_'"
        ) from None
    found: list[str | None] = json.loads(done.stdout)
    return found


def _refuse_without_group(grouping: Grouping, names: Sequence[str]) -> None:
    """Raise DataError where an image has no group, or where there is one group alone."""
    missing = [name for name, value in zip(names, grouping.values, strict=True) if not value]
    if missing:
        what = f"an empty {grouping.column}" if grouping.column else f"a path that does not match {grouping.word}"
        have = "image has" if len(missing) == 1 else "images have"
        raise DataError(
            f"{len(missing):,} of {len(names):,} {have} {what}: {shortened(missing, _NAMED)}; --group-by needs a "
            "group for every image: fill it in, change the expression, or leave these images out"
        )
    if grouping.count == 1:
        raise DataError(
            f"--group-by: all {len(names):,} images are in the one group {grouping.values[0]!r}, so none could be held "
            "out: name another column or expression"
        )


def unite(copies: Sequence[str], values: Sequence[str]) -> tuple[list[str], int]:
    """Unite groups of copies (n names) with the groups `values` (n) that share an image.

    Return n names of units, each the smallest name of its groups of copies, so that they depend on content alone; and
    the number of groups that a copy linked to another group.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for copy, value in zip(copies, values, strict=True):
        one, two = sorted((root(f"copy {copy}"), root(f"group {value}")))
        parent[two] = one  # «copy …» sorts first, so the root is the smallest name of a group of copies
    roots = [root(f"copy {copy}").removeprefix("copy ") for copy in copies]
    return roots, len(set(values)) - len(set(roots))


def grouping_notes(grouping: Grouping, given: Sequence[PartName | None], linked: int) -> tuple[str, ...]:
    """Return a line for each thing to know: groups united by copies, groups of one image, groups in two given parts."""
    notes: list[str] = []
    if linked:
        notes.append(
            f"grouped by {grouping.word}: copies of one picture lie in several groups, so {grouping.count:,} groups "
            f"are split as {grouping.count - linked:,}"
        )
    if grouping.count == len(grouping.values):
        notes.append(f"grouped by {grouping.word}: each image is a group of its own, so nothing is kept together")
    sides: dict[str, set[PartName]] = {}
    for part, value in zip(given, grouping.values, strict=True):
        if part:
            sides.setdefault(value, set()).add(part)
    torn = [value for value, parts in sides.items() if len(parts) > 1]
    if torn:
        which = "1 group has" if len(torn) == 1 else f"{len(torn):,} groups have"
        notes.append(
            f"leak: grouped by {grouping.word}, {which} images in more than one given part: {shortened(torn, _NAMED)}; "
            "the given parts are kept, and what they measure may be too high"
        )
    return tuple(notes)
