"""DataChanges: the decisions of a person, or of the data doctor, on single images of a data set.

Images are named as in the data set: by their path, or key, below it. The images themselves are never touched. A study
and a model keep the changes as JSON, so that their data are the same when they are opened again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

FindingKind = Literal["copy", "conflict", "outlier", "label", "unreadable", "odd", "leak"]
"""The kinds of findings on an image."""

KINDS: tuple[FindingKind, ...] = get_args(FindingKind)

Moved = Literal["train", "val", "test"]
"""The parts, as `hpo.data.PartName`: the values of a data set hold changes, so this file imports none of them."""

OPTIONS = ("--clean", "--fix-leaks")
"""The options of `hpo run` that a source may name, after the name of a table of findings."""

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class DataChanges:
    """The images that are left out, the labels that are replaced, and what belongs into one part. True if any."""

    drops: Mapping[str, FindingKind] = field(default_factory=lambda: _EMPTY)
    """File -> the finding for which it is left out."""
    relabels: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """File -> the name of its class."""
    groups: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """File -> the name of its group; the images of one group are put into one part by a split that hpo makes."""
    parts: Mapping[str, Moved] = field(default_factory=lambda: _EMPTY)
    """File -> the part that it is moved to, in data that bring their own parts."""
    source: str = ""
    """Where the changes come from, for people: `findings.csv`, `--clean`."""
    digest: str = ""
    """The digest of the findings that they come from."""

    def __bool__(self) -> bool:
        return bool(self.drops or self.relabels or self.groups or self.parts)

    @property
    def files(self) -> set[str]:
        """The files that are named."""
        return {*self.drops, *self.relabels, *self.groups, *self.parts}

    @property
    def table_and_options(self) -> tuple[str, tuple[str, ...]]:
        """The name of the table of findings, "" for none, and the options that `source` names."""
        table, options = self.source, tuple[str, ...]()
        for option in reversed(OPTIONS):  # from the end: the name of a table may hold such a word
            if table == option or table.endswith(f" {option}"):
                table, options = table[: -len(option)].rstrip(), (option, *options)
        return table, options

    def drop_counts(self) -> dict[FindingKind, int]:
        """Return the number of images that are left out, for each kind of finding, the most frequent first."""
        counts = Counter(self.drops.values())
        return {kind: counts[kind] for kind in sorted(counts, key=lambda kind: (-counts[kind], KINDS.index(kind)))}

    def action(self, file: str) -> str:
        """Return what happens to the content of a file: `drop`, `relabel:CLASS`, `part:PART`, or "" for nothing."""
        if file in self.drops:
            return "drop"
        actions = [f"relabel:{self.relabels[file]}"] if file in self.relabels else []
        return " ".join([*actions, *([f"part:{self.parts[file]}"] if file in self.parts else [])])

    def counts(self) -> dict[str, Any]:
        """Return JSON-ready values: the source, and the number of images by what happens to them."""
        return {
            "source": self.source,
            "digest": self.digest,
            "left_out": self.drop_counts(),
            "relabelled": len(self.relabels),
            "moved": len(self.parts),
            "groups": len(set(self.groups.values())),
        }

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values without what is empty; files are listed by what happens to them."""
        values: dict[str, Any] = {
            "drops": _files_by(self.drops),
            "relabels": _files_by(self.relabels),
            "groups": sorted(_files_by(self.groups).values()),
            "parts": _files_by(self.parts),
            "source": self.source,
            "digest": self.digest,
        }
        return {key: value for key, value in values.items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataChanges:
        """Read `to_json`. Raise ValueError for anything else. A group is named by its first file."""
        if unknown := set(values) - {"drops", "relabels", "groups", "parts", "source", "digest"}:
            raise ValueError(f"changes have no field {min(unknown)!r}")
        drops, parts = _by_file(values, "drops"), _by_file(values, "parts")
        if wrong := {*drops.values()} - {*KINDS} | {*parts.values()} - {*get_args(Moved)}:
            raise ValueError(f"changes of data name {min(wrong)!r}, which is neither a finding nor a part")
        groups = values.get("groups", [])
        if not (isinstance(groups, list) and all(map(_is_texts, groups))):
            raise ValueError("groups of data changes must be lists of files")
        source, digest = values.get("source", ""), values.get("digest", "")
        if not (isinstance(source, str) and isinstance(digest, str)):
            raise ValueError("source and digest of data changes must be texts")
        by_group = {file: min(files) for files in groups for file in files}
        return cls(drops, _by_file(values, "relabels"), by_group, parts, source, digest)

    def line(self) -> str:
        """Return `left out by findings.csv: 1,808 images: 1,600 outlier, 208 copy; 12 relabelled`."""
        counts = [f"{count:,} {kind}" for kind, count in self.drop_counts().items()]
        images = "1 image" if len(self.drops) == 1 else f"{len(self.drops):,} images"
        said = [f"left out by {self.source or 'findings'}: {images}: {', '.join(counts)}"] if self.drops else []
        together = len(set(self.groups.values()))
        said += [f"{len(self.relabels):,} relabelled"] if self.relabels else []
        said += [f"{len(self.parts):,} moved to another part"] if self.parts else []
        said += [f"{together:,} {'group' if together == 1 else 'groups'} kept in one part"] if together else []
        return "; ".join(said if self.drops else [f"by {self.source or 'findings'}: {'; '.join(said)}"])

    def unapplied_line(self) -> str:
        """Return `line`, and that other data do not follow it: the decisions name images of the model's own data."""
        return f"in the model's own data: {self.line()}; these are other data, so none of that is applied to them"


def groups_of_files(groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return file -> the first file of its group, for groups of at least two; groups that share a file are joined."""
    parent: dict[str, str] = {}

    def root(file: str) -> str:
        while (above := parent.setdefault(file, file)) != file:
            parent[file] = parent[above]
            file = parent[file]
        return file

    for files in groups:
        first = None
        for file in files:
            one, other = root(file), root(first or file)
            first = first or file
            parent[max(one, other)] = min(one, other)
    sizes = Counter(map(root, list(parent)))
    return {file: root(file) for file in list(parent) if sizes[root(file)] > 1}


def _files_by(values: Mapping[str, str]) -> dict[str, list[str]]:
    """Return value -> its keys, sorted."""
    files: dict[str, list[str]] = defaultdict(list)
    for file in sorted(values):
        files[values[file]].append(file)
    return dict(sorted(files.items()))


def _by_file(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return file -> value of one field of `to_json`."""
    found = values.get(key, {})
    if not (isinstance(found, Mapping) and all(map(_is_texts, found.values()))):
        raise ValueError(f"{key} of data changes must map to lists of files")
    return {file: value for value, files in found.items() for file in files}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
