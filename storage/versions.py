"""Versions of checkpoints: what a listing of a study's objects says about them. Pure functions of that listing.

    <trial>/<kind>-<token>-<number>/<file>         the manifest is written last: a version is whole once it is there
    <trial>/<kind>-<token>-<number>/.needs-<n>     the first object of a draft, empty: the bytes that it will take
    <trial>/<kind>-<number>/<file>                 from before there were tokens: token 0

The token is that of the lease under which a version was written. It grows from owner to owner, so that versions are
ordered by (token, number) whenever they were written.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

from storage.manifest import MANIFEST
from storage.objects import StoredObject

Kind = Literal["latest", "best"]
KINDS: tuple[Kind, ...] = ("latest", "best")

_NAME = re.compile(r"(latest|best)-(?:(\d{10,})-)?(\d{8,})")
_NEEDS = ".needs-"


@dataclass(frozen=True)
class Version:
    """One version of a checkpoint, or a draft of one."""

    trial: int
    kind: Kind
    token: int
    number: int
    name: str
    objects: tuple[StoredObject, ...]

    @property
    def rank(self) -> tuple[int, int]:
        """Of two versions of a kind the one with the higher rank is the newer."""
        return self.token, self.number

    @property
    def folder(self) -> str:
        """What the keys of its objects begin with."""
        return f"{self.trial}/{self.name}/"

    @cached_property
    def whole(self) -> bool:
        """Whether it was finished; its files may have been damaged since."""
        return any(found.key == self.folder + MANIFEST for found in self.objects)

    @property
    def is_draft(self) -> bool:
        """Whether somebody is writing it, or was killed doing so."""
        return not self.whole and bool(self._needs)

    @property
    def written(self) -> int:
        """Bytes that its objects take."""
        return sum(found.size for found in self.objects)

    @property
    def size(self) -> int:
        """Bytes that it takes, or will take if those are more."""
        return max([self.written, *([] if self.whole else self._needs)])

    @property
    def modified(self) -> float:
        """When its last object was written, in seconds since 1970."""
        return max(found.modified for found in self.objects)

    @property
    def keys(self) -> list[str]:
        """Keys of its objects in the order of removal: once the manifest is gone, nobody takes it for whole."""
        return sorted((found.key for found in self.objects), key=lambda key: (key != self.folder + MANIFEST, key))

    @cached_property
    def _needs(self) -> list[int]:
        start = self.folder + _NEEDS
        texts = (found.key.removeprefix(start) for found in self.objects if found.key.startswith(start))
        return [int(text) for text in texts if text.isdecimal()]


def next_draft(versions: Iterable[Version], trial: int, kind: Kind, token: int, need: int) -> Version:
    """The draft that the holder of `token` begins next, with the one object that says that it needs `need` bytes."""
    taken = [v.number for v in versions if (v.trial, v.kind, v.token) == (trial, kind, token)]
    number = max(taken, default=0) + 1
    name = f"{kind}-{token:010d}-{number:08d}"
    return Version(trial, kind, token, number, name, (StoredObject(f"{trial}/{name}/{_NEEDS}{need}", 0, 0.0),))


def found_versions(objects: Iterable[StoredObject]) -> list[Version]:
    """All versions and drafts in a listing of a study, the newest first; what is neither is left out."""
    folders: defaultdict[tuple[str, str], list[StoredObject]] = defaultdict(list)
    for found in objects:
        parts = found.key.split("/")
        if len(parts) == 3 and parts[0].isdecimal():
            folders[parts[0], parts[1]].append(found)
    versions = [
        Version(int(trial), cast(Kind, match[1]), int(match[2] or 0), int(match[3]), name, tuple(inside))
        for (trial, name), inside in folders.items()
        if (match := _NAME.fullmatch(name))
    ]
    return sorted(versions, key=lambda version: version.rank, reverse=True)


def used(objects: Iterable[StoredObject]) -> int:
    """Bytes that the objects take, and those that the drafts among them will."""
    objects = list(objects)
    return sum(found.size for found in objects) + sum(v.size - v.written for v in found_versions(objects))


def superseded(versions: Sequence[Version], trial: int, kind: Kind, keep: int) -> list[Version]:
    """The whole versions of a trial that are older than its `keep` newest ones."""
    return [v for v in versions if (v.trial, v.kind) == (trial, kind) and v.whole][keep:]


def abandoned(versions: Sequence[Version]) -> list[Version]:
    """Unfinished versions whose writers are gone: the trial has had another owner since."""
    newest: defaultdict[int, int] = defaultdict(int)
    for version in versions:
        newest[version.trial] = max(newest[version.trial], version.token)
    return [version for version in versions if not version.whole and version.token < newest[version.trial]]
