"""Manifest: what a checkpoint consists of, with a checksum of every file and of itself.

Versions of checkpoints: what a listing of a study's objects says about them. Pure functions of that listing.

    <trial>/<kind>-<token>-<number>/<file>         the manifest is written last: a version is whole once it is there
    <trial>/<kind>-<token>-<number>/.needs-<n>     the first object of a draft, empty: the bytes that it will take
    <trial>/<kind>-<number>/<file>                 from before there were tokens: token 0

The token is that of the lease under which a version was written. It grows from owner to owner, so that versions are
ordered by (token, number) whenever they were written.

Quota: how many bytes the checkpoints of a study may take, and what goes to make room for the next one.

What nobody needs any more: checkpoints of finished trials, leftovers of killed writers, files of deleted studies.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from storage.errors import CheckpointError
from storage.objects import ObjectStore, StoredObject

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CheckpointManifest:
    """SHA-256 (hex) by file name, and the writer's notes."""

    files: Mapping[str, str]
    info: Mapping[str, Any]

    @classmethod
    def of(cls, files: Mapping[str, bytes], info: Mapping[str, Any]) -> CheckpointManifest:
        """The manifest of files that are about to be written. TypeError when the notes are no JSON."""
        return cls({name: _digest(content) for name, content in files.items()}, json.loads(json.dumps(dict(info))))

    @classmethod
    def parse(cls, content: bytes, source: str) -> CheckpointManifest:
        """The manifest that `source` holds; CheckpointError when it is not as it was written."""
        try:
            stored = json.loads(content)
            files, info, digest = stored["files"], stored["info"], stored["sha256"]
        except (ValueError, TypeError, KeyError):
            raise CheckpointError(f"{source} is torn") from None
        manifest = cls(files, info)
        if manifest.digest() != digest:
            raise CheckpointError(f"{source} fails its checksum")
        return manifest

    def digest(self) -> str:
        """SHA-256 (hex) of the manifest's content."""
        return _digest(json.dumps({"files": self.files, "info": self.info}, sort_keys=True).encode())

    def to_bytes(self) -> bytes:
        """What `parse` reads."""
        content = {"files": dict(self.files), "info": dict(self.info), "sha256": self.digest()}
        return json.dumps(content, indent=1).encode()

    def check(self, name: str, content: bytes, source: str) -> bytes:
        """The content of file `name` as it was found at `source`; CheckpointError when it fails its checksum."""
        if _digest(content) != self.files[name]:
            raise CheckpointError(f"{source} fails its checksum")
        return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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


@dataclass(frozen=True)
class Quota:
    """A limit that holds at every moment, for the bytes that are being written too."""

    limit: int
    """Bytes."""
    evictable: Callable[[], Sequence[int]] = tuple
    """Finished trials whose checkpoints may go, the first to go first. Asked only when room is short."""


def expendable(
    versions: Sequence[Version], draft: Version, evictable: Sequence[int], spare: Iterable[Version]
) -> Iterator[Version]:
    """What may go to make room for `draft`, the first to go first.

    What killed writers left; of evictable trials what is not their newest `best`, then that; at last `spare`: what the
    draft's own trial can do without. What another unfinished trial needs is never among it.
    """
    finished = [trial for trial in evictable if trial != draft.trial]
    yield from abandoned(versions)
    for trial in finished:
        yield from (v for v in versions if v.trial == trial and (v.kind != "best" or not v.whole))
        yield from superseded(versions, trial, "best", keep=1)
    for trial in finished:
        yield from superseded(versions, trial, "best", keep=0)
    yield from spare


def dispensable(versions: Sequence[Version], draft: Version, is_sound: Callable[[Version], bool]) -> Iterator[Version]:
    """What the draft's own trial can do without: other drafts, and versions older than one that is sound."""
    own = [v for v in versions if v.trial == draft.trial and v.name != draft.name]
    yield from (v for v in own if not v.whole and v.token <= draft.token)
    for kind in KINDS:
        newest, *older = [v for v in own if v.kind == kind and v.whole] or [draft]
        if older and is_sound(newest):
            yield from reversed(older)


def enough(candidates: Iterable[Version], excess: int) -> list[Version] | None:
    """The first candidates that together free `excess` bytes; None where all of them do not."""
    chosen: dict[str, Version] = {}
    for version in candidates:
        chosen[version.folder] = version
        if sum(one.size for one in chosen.values()) >= excess:
            return list(chosen.values())
    return None


def format_size(size: int) -> str:
    """A number of bytes for people: `1.25 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} B"


_ABANDONED = 86_400.0  # seconds; no write takes as long, nor is a clock as wrong


@dataclass(frozen=True)
class Freed:
    """What was removed, or would be."""

    trials: tuple[int, ...] = ()
    """Trials of which something goes, in order."""
    bytes: int = 0


def collect(objects: ObjectStore, finished: Collection[int], keep: Collection[int], *, dry_run: bool = False) -> Freed:
    """Remove all of the `finished` trials but the `best` of those to `keep`, and what killed writers left.

    `finished` is what the study says now: a finished trial stays one. Any other may be running, even one that the
    caller has not heard of, so nothing of it goes but unfinished versions whose writers are gone: those of earlier
    owners, and those that are a day old. With `dry_run` nothing is removed.
    """
    found = objects.list()
    unneeded = sorted(set(_unneeded(found, set(finished), set(keep))), key=_manifest_first)
    if not dry_run:
        objects.delete(one.key for one in unneeded)
    trials = {int(head) for one in unneeded if (head := one.key.split("/")[0]).isdecimal()}
    return Freed(tuple(sorted(trials)), sum(one.size for one in unneeded))


def stray_study_folders(root: ObjectStore, known: Collection[str]) -> dict[str, int]:
    """Folders below `root` that hold checkpoints of studies other than the `known` folders, and the bytes of each.

    `known` must name the studies of every database whose workers use this root. A folder without a checkpoint in it
    is not taken for a study's.
    """
    folders: dict[str, list[StoredObject]] = {}
    for found in root.list():
        study, _, key = found.key.partition("/")
        if key and study not in known:
            folders.setdefault(study, []).append(StoredObject(key, found.size, found.modified))
    return {study: sum(one.size for one in inside) for study, inside in folders.items() if found_versions(inside)}


def remove_study(root: ObjectStore, folder: str) -> None:
    """Remove all checkpoints of the study in `folder`, one of those that `stray_study_folders` names."""
    root.delete(one.key for one in sorted(root.list(f"{folder}/"), key=_manifest_first))


def _unneeded(found: Sequence[StoredObject], finished: set[int], keep: set[int]) -> Iterator[StoredObject]:
    versions = found_versions(found)
    needed = {one for version in versions if version.kind == "best" and version.whole for one in version.objects}
    for one in found:
        head, _, inside = one.key.partition("/")
        if inside and head.isdecimal() and int(head) in finished and (int(head) not in keep or one not in needed):
            yield one
    for version in [*abandoned(versions), *(version for version in versions if _is_old_draft(version))]:
        yield from version.objects


def _is_old_draft(version: Version) -> bool:
    return not version.whole and time.time() - version.modified > _ABANDONED


def _manifest_first(found: StoredObject) -> tuple[bool, str]:
    return not found.key.endswith(f"/{MANIFEST}"), found.key
