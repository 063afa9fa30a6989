"""Versions of checkpoints in a study's object store, and which of them may be removed.

    <trial>/<kind>-<token>-<number>/<file>         the manifest is written last: with it the version is complete
    <trial>/<kind>-<token>-<number>/.needs-<n>     the first object of a draft, empty: the bytes that it will take
    <trial>/<kind>-<number>/<file>                 written before there were tokens: token 0

The token is that of the lease under which a version was written. It grows from owner to owner, so that versions are
ordered by (token, number), whatever the clocks say.

Three rules remove versions: `superseded` and `abandoned` after each write, `eviction_order` when the quota is short,
`unneeded` for `hpo gc`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

from storage.errors import CheckpointError, StoreUnavailableError
from storage.objects import ObjectStore, StoredObject

MANIFEST = "manifest.json"

Kind = Literal["latest", "best"]

KINDS: tuple[Kind, ...] = ("latest", "best")

_NAME = re.compile(r"(latest|best)-(?:(\d{10,})-)?(\d{8,})")

_NEEDS = ".needs-"

_ABANDONED = 86_400.0  # seconds; more than any write takes, and than any clock is wrong

_CONTENTS = {"best": "weights of its best epoch", "latest": "state to go on from"}

_LEFT_OVER = "left by a killed writer"


@dataclass(frozen=True)
class CheckpointManifest:
    """The files of a version with their SHA-256 (hex), and the writer's notes. It holds a checksum of itself."""

    files: Mapping[str, str]
    info: Mapping[str, Any]

    @classmethod
    def of(cls, files: Mapping[str, bytes], info: Mapping[str, Any]) -> CheckpointManifest:
        """Return the manifest of files to be written. Raises TypeError when the notes are not JSON."""
        return cls({name: _digest(content) for name, content in files.items()}, json.loads(json.dumps(dict(info))))

    @classmethod
    def parse(cls, content: bytes, source: str) -> CheckpointManifest:
        """Return the manifest with these bytes. Raises CheckpointError, naming `source`, when they are damaged."""
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
        """Return the SHA-256 (hex) of the manifest's content."""
        return _digest(json.dumps({"files": self.files, "info": self.info}, sort_keys=True).encode())

    def to_bytes(self) -> bytes:
        """Return the bytes that `parse` reads."""
        content = {"files": dict(self.files), "info": dict(self.info), "sha256": self.digest()}
        return json.dumps(content, indent=1).encode()

    def check(self, name: str, content: bytes, source: str) -> bytes:
        """Return the content of file `name`. Raises CheckpointError, naming `source`, when it fails its checksum."""
        if _digest(content) != self.files[name]:
            raise CheckpointError(f"{source} fails its checksum")
        return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
        """Sort key: the newer of two versions of a kind has the higher rank."""
        return self.token, self.number

    @property
    def folder(self) -> str:
        """Prefix of the keys of its objects."""
        return f"{self.trial}/{self.name}/"

    @cached_property
    def whole(self) -> bool:
        """Whether it was written completely; its files may have been damaged since."""
        return any(found.key == self.folder + MANIFEST for found in self.objects)

    @property
    def is_draft(self) -> bool:
        """Whether it is being written, or its writer was killed."""
        return not self.whole and bool(self._needs)

    @property
    def written(self) -> int:
        """Bytes of its objects."""
        return sum(found.size for found in self.objects)

    @property
    def size(self) -> int:
        """Bytes that it takes, or those announced for a draft when they are more."""
        return max([self.written, *([] if self.whole else self._needs)])

    @property
    def modified(self) -> float:
        """When its newest object was written, in seconds since 1970."""
        return max(found.modified for found in self.objects)

    @property
    def keys(self) -> list[str]:
        """Keys of its objects in order of removal: the manifest first, so that the rest no longer counts as whole."""
        return sorted((found.key for found in self.objects), key=lambda key: (key != self.folder + MANIFEST, key))

    @cached_property
    def _needs(self) -> list[int]:
        start = self.folder + _NEEDS
        texts = (found.key.removeprefix(start) for found in self.objects if found.key.startswith(start))
        return [int(text) for text in texts if text.isdecimal()]


def next_draft(versions: Iterable[Version], trial: int, kind: Kind, token: int, need: int) -> Version:
    """Return the next draft of the holder of `token`, with the object that announces its `need` bytes."""
    taken = [v.number for v in versions if (v.trial, v.kind, v.token) == (trial, kind, token)]
    number = max(taken, default=0) + 1
    name = f"{kind}-{token:010d}-{number:08d}"
    return Version(trial, kind, token, number, name, (StoredObject(f"{trial}/{name}/{_NEEDS}{need}", 0, 0.0),))


def versions_in(objects: Iterable[StoredObject]) -> list[Version]:
    """Return all versions and drafts in a listing of a study, the newest first; other objects are left out."""
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


def list_versions(objects: ObjectStore, trial: int | None = None) -> list[Version]:
    """Return all versions and drafts in a study's store, of one trial or of all, the newest first."""
    return versions_in(objects.list("" if trial is None else f"{trial:d}/"))


def load_version(objects: ObjectStore, version: Version) -> tuple[CheckpointManifest, dict[str, bytes]]:
    """Return manifest and files of a version. Raises CheckpointError, naming the file, when any byte has changed."""

    def read(name: str) -> tuple[bytes, str]:
        source = f"{objects.place}/{version.folder}{name}"
        try:
            return objects.get(version.folder + name), source
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            raise CheckpointError(f"{source} cannot be read: {reason}") from None

    manifest = CheckpointManifest.parse(*read(MANIFEST))
    return manifest, {name: manifest.check(name, *read(name)) for name in manifest.files}


def is_sound(objects: ObjectStore, version: Version) -> bool:
    """Return whether a version can be loaded. Raises StoreUnavailableError when that cannot be known."""
    try:
        load_version(objects, version)
    except StoreUnavailableError:
        raise
    except CheckpointError:
        return False
    return True


def remove_versions(objects: ObjectStore, versions: Iterable[Version]) -> None:
    """Remove versions; objects that another process removes at the same time are skipped."""
    for version in versions:
        objects.delete(version.keys)


def used_bytes(objects: Iterable[StoredObject]) -> int:
    """Return the bytes of the objects, drafts counted with the bytes that they announce."""
    objects = list(objects)
    return sum(found.size for found in objects) + sum(v.size - v.written for v in versions_in(objects))


def format_size(size: int) -> str:
    """Return a number of bytes with its unit, such as `1.25 GB`."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} B"


def superseded(versions: Sequence[Version], trial: int, kind: Kind, keep: int) -> list[Version]:
    """Return the whole versions of a trial and kind that are older than the `keep` newest ones."""
    return [v for v in versions if (v.trial, v.kind) == (trial, kind) and v.whole][keep:]


def abandoned(versions: Sequence[Version]) -> list[Version]:
    """Return the unfinished versions of earlier owners: the trial has a version with a higher token."""
    newest: defaultdict[int, int] = defaultdict(int)
    for version in versions:
        newest[version.trial] = max(newest[version.trial], version.token)
    return [version for version in versions if not version.whole and version.token < newest[version.trial]]


@dataclass(frozen=True)
class Quota:
    """A limit for the bytes of a study's checkpoints, those being written included. It holds at every moment."""

    limit: int
    """Bytes."""
    evictable: Callable[[], Sequence[int]] = tuple
    """Returns finished trials whose checkpoints may be removed, in that order. Called only when room is short."""


def eviction_order(
    versions: Sequence[Version], draft: Version, evictable: Sequence[int], spare: Iterable[Version]
) -> Iterator[Version]:
    """Yield the versions that may be removed to make room for `draft`, in that order.

    First the abandoned versions; then those of evictable trials but for their newest `best`; then that; then `spare`:
    the versions that the draft's own trial does not need. No version of another unfinished trial is among them.
    """
    finished = [trial for trial in evictable if trial != draft.trial]
    yield from abandoned(versions)
    for trial in finished:
        yield from (v for v in versions if v.trial == trial and (v.kind != "best" or not v.whole))
        yield from superseded(versions, trial, "best", keep=1)
    for trial in finished:
        yield from superseded(versions, trial, "best", keep=0)
    yield from spare


def spare_versions(
    versions: Sequence[Version], draft: Version, is_sound: Callable[[Version], bool]
) -> Iterator[Version]:
    """Yield what the draft's own trial does not need: its other drafts, and versions older than a sound one."""
    others = [v for v in versions if v.folder != draft.folder]
    yield from (v for v in others if v.trial == draft.trial and not v.whole and v.token <= draft.token)
    for kind in KINDS:
        newest, *older = superseded(others, draft.trial, kind, keep=0) or [draft]
        if older and is_sound(newest):
            yield from reversed(older)


def first_to_free(candidates: Iterable[Version], excess: int) -> list[Version] | None:
    """Return the first candidates that together free `excess` bytes; None when all of them do not."""
    chosen: dict[str, Version] = {}
    for version in candidates:
        chosen[version.folder] = version
        if sum(one.size for one in chosen.values()) >= excess:
            return list(chosen.values())
    return None


def unneeded(objects: Sequence[StoredObject], finished: set[int], keep: set[int]) -> list[StoredObject]:
    """Return what may go: all of the `finished` trials but the `best` of those to `keep`, and what killed writers left.

    A trial that is not in `finished` may be running, even one that the caller does not know yet. Of such a trial only
    unfinished versions may go: those of earlier owners, and those that are a day old. Manifests come first.
    """
    return sorted(set(_unneeded(objects, finished, keep)), key=manifest_first)


def _unneeded(objects: Sequence[StoredObject], finished: set[int], keep: set[int]) -> Iterator[StoredObject]:
    versions = versions_in(objects)
    needed = {one for version in versions if version.kind == "best" and version.whole for one in version.objects}
    for one in objects:
        trial = _trial_of(one)
        if trial in finished and (trial not in keep or one not in needed):
            yield one
    for version in [*abandoned(versions), *(version for version in versions if _is_old_draft(version))]:
        yield from version.objects


def _trial_of(one: StoredObject) -> int | None:
    head, _, inside = one.key.partition("/")
    return int(head) if inside and head.isdecimal() else None


def _is_old_draft(version: Version) -> bool:
    return not version.whole and time.time() - version.modified > _ABANDONED


def manifest_first(one: StoredObject) -> tuple[bool, str]:
    """Sort key for removals: once its manifest is gone, no version counts as whole."""
    return not one.key.endswith(f"/{MANIFEST}"), one.key


@dataclass(frozen=True)
class Removal:
    """The versions of one trial that a garbage collection removes."""

    trial: int
    what: str
    size: int
    """Bytes."""


def removals(removed: Iterable[StoredObject]) -> list[Removal]:
    """Describe the removed objects by trial."""
    trials: defaultdict[int, list[StoredObject]] = defaultdict(list)
    for one in removed:
        trials[int(one.key.partition("/")[0])].append(one)
    return [
        Removal(trial, _described(inside), sum(one.size for one in inside)) for trial, inside in sorted(trials.items())
    ]


def _described(objects: Iterable[StoredObject]) -> str:
    """Return words such as `weights of its best epoch, state to go on from` for objects of one trial."""
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for one in objects:
        version, _, file = one.key.partition("/")[2].partition("/")
        versions[version].add(file)
    # A version without its manifest was never completed.
    parts = [
        _CONTENTS.get(version.partition("-")[0], _LEFT_OVER) if MANIFEST in files else _LEFT_OVER
        for version, files in sorted(versions.items())
    ]
    return ", ".join(dict.fromkeys(parts))
