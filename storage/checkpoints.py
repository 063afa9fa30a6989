"""Shelf: the versions of checkpoints that lie in an object store, to be listed, loaded and removed.

CheckpointWriter: versions that are being written, each announced with its size before its first byte.

Whoever announces a draft looks only then whether all that lies there, and all that is announced, fits the quota. So of
two that do this at once at least one sees the other: together they never exceed it, on whatever hosts they run and
without a lock that a stopped process could hold. Both may find it too full; then each takes its word back and tries
again after a pause of random length.

CheckpointStore: the checkpoints of a study's trials, as bytes in objects. Atomic, checksummed, two versions deep.

    <root>/<study's id>/<trial>/latest-0000000042-00000007/   manifest.json and the files that it lists with SHA-256
    <root>/<study's id>/<trial>/latest-0000000041-00000006/   read when the one above is damaged
    <root>/<study's id>/images/<digest of the split>.npy      digests of the images that its trials were made with

Where the root is, a folder or a prefix in an S3 bucket, is the affair of its `ObjectStore`; the rules are here.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from storage.checkpoint_versions import (
    MANIFEST,
    CheckpointManifest,
    Freed,
    Kind,
    Quota,
    Version,
    abandoned,
    collect,
    dispensable,
    enough,
    expendable,
    format_size,
    found_versions,
    next_draft,
    superseded,
    used,
)
from storage.errors import CheckpointError, DiskFullError, LeaseLostError, StoreUnavailableError
from storage.objects import ObjectStore


class Shelf:
    """What an object store holds of one study."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects

    def versions(self, trial: int | None = None) -> list[Version]:
        """All versions and drafts, of one trial or of all, the newest first."""
        return found_versions(self.objects.list("" if trial is None else f"{trial:d}/"))

    def load(self, version: Version) -> tuple[CheckpointManifest, dict[str, bytes]]:
        """Manifest and files of a version; CheckpointError, naming the file, unless every byte is as it was written."""
        manifest = CheckpointManifest.parse(self._get(version, MANIFEST), self._where(version, MANIFEST))
        files = {
            name: manifest.check(name, self._get(version, name), self._where(version, name)) for name in manifest.files
        }
        return manifest, files

    def is_sound(self, version: Version) -> bool:
        """Whether a version can be loaded."""
        try:
            self.load(version)
        except StoreUnavailableError:
            raise
        except CheckpointError:
            return False
        return True

    def remove(self, versions: Iterable[Version]) -> None:
        """Remove versions; what another removes at the same time is passed over."""
        for version in versions:
            self.objects.delete(version.keys)

    def _get(self, version: Version, name: str) -> bytes:
        try:
            return self.objects.get(version.folder + name)
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            raise CheckpointError(f"{self._where(version, name)} cannot be read: {reason}") from None

    def _where(self, version: Version, name: str) -> str:
        return f"{self.objects.place}/{version.folder}{name}"


VERSIONS_KEPT = 2

_TRIES = 30  # while others write: when they are done, older versions of theirs go

_PAUSE = 0.3  # seconds at most between two tries

_ROUNDS = 10  # of making room, should others fill it as fast


class CheckpointWriter:
    """Writes versions to a shelf. One writer for each trial and token."""

    def __init__(self, shelf: Shelf, quota: Quota | None) -> None:
        self._shelf = shelf
        self._quota = quota

    def write(self, trial: int, kind: Kind, token: int, content: Mapping[str, bytes]) -> Version:
        """Write a version, its objects in the order of `content`, the manifest last; remove what it supersedes."""
        draft = self._announce_patiently(trial, kind, token, sum(map(len, content.values())))
        with self._withdrawn_on(BaseException, draft):
            for name, data in content.items():
                self._shelf.objects.put(draft.folder + name, data, settled=name == MANIFEST)
        # The version is safe: what is not removed now goes after the next one.
        with suppress(CheckpointError), self._withdrawn_on(LeaseLostError, draft):
            self._tidy(draft)
        return draft

    def _announce_patiently(self, trial: int, kind: Kind, token: int, need: int) -> Version:
        for _ in range(_TRIES):
            try:
                return self._announce(trial, kind, token, need)
            except DiskFullError:
                if not any(version.is_draft for version in self._shelf.versions()):
                    raise
            time.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - only to part those who wait
        return self._announce(trial, kind, token, need)

    def _announce(self, trial: int, kind: Kind, token: int, need: int) -> Version:
        versions = self._shelf.versions(trial)
        draft = next_draft(versions, trial, kind, token, need)
        _refuse_stale(versions, draft)
        with self._withdrawn_on(BaseException, draft):
            self._shelf.objects.put(draft.keys[0], b"", settled=False)
            if self._quota is not None:
                self._make_room(draft, self._quota)
        return draft

    def _make_room(self, draft: Version, quota: Quota) -> None:
        if draft.size > quota.limit:
            raise CheckpointError(
                f"one checkpoint of trial {draft.trial} takes {format_size(draft.size)}, more than the whole quota of "
                f"{format_size(quota.limit)}; raise --checkpoint-quota"
            )
        for _ in range(_ROUNDS):
            objects = self._shelf.objects.list()
            excess = used(objects) - quota.limit
            if excess <= 0:
                return
            versions = found_versions(objects)
            spare = dispensable(versions, draft, self._shelf.is_sound)
            chosen = enough(expendable(versions, draft, quota.evictable(), spare), excess)
            if chosen is None:
                break
            self._shelf.remove(chosen)
        raise DiskFullError(
            f"a checkpoint of {format_size(draft.size)} does not fit into the quota of {format_size(quota.limit)} "
            f"beside what has to stay, {format_size(excess)} are wanting; raise --checkpoint-quota, lower --keep, or "
            "run fewer workers"
        )

    def _tidy(self, draft: Version) -> None:
        """Keep the newest versions, and nothing that this writer or an earlier owner left unfinished."""
        self._shelf.objects.delete(draft.keys)
        versions = self._shelf.versions(draft.trial)
        _refuse_stale(versions, draft)
        own = [v for v in versions if v.kind == draft.kind and not v.whole and v.rank < draft.rank]
        self._shelf.remove([*superseded(versions, draft.trial, draft.kind, VERSIONS_KEPT), *own, *abandoned(versions)])

    @contextmanager
    def _withdrawn_on(self, failure: type[BaseException], draft: Version) -> Iterator[None]:
        try:
            yield
        except failure:
            with suppress(CheckpointError):  # the failure is what to tell
                self._shelf.remove(v for v in self._shelf.versions(draft.trial) if v.name == draft.name)
            raise


def _refuse_stale(versions: list[Version], draft: Version) -> None:
    newer = next((version for version in versions if version.token > draft.token), None)
    if newer is not None:
        raise LeaseLostError(
            f"trial {draft.trial} is another worker's now, which has written {newer.name}; this one's {draft.name} "
            "does not count"
        )


_IMAGES = "images/"

_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Checkpoint:
    """One version of a checkpoint, every byte as it was written."""

    files: Mapping[str, bytes]
    info: Mapping[str, Any]
    """What the writer noted, as JSON values."""
    name: str
    """Of the version: `latest-<token>-<number>`."""
    token: int
    """Of the lease under which it was written."""
    version: int
    """Its number among those of its token."""
    damaged: tuple[str, ...] = ()
    """Versions that were to be used rather than this one and could not be, and why: empty unless it is a fallback."""


class CheckpointStore:
    """The checkpoints of one study. One writer for each trial and token, any number of readers."""

    def __init__(self, objects: ObjectStore, *, quota: Quota | None = None) -> None:
        self._shelf = Shelf(objects)
        self._drafts = CheckpointWriter(self._shelf, quota)
        self.place = objects.place

    def write(
        self, trial: int, kind: Kind, files: Mapping[str, bytes], info: Mapping[str, Any], *, token: int = 0
    ) -> str:
        """Write a version and return its name; it is durable then, and all but the one before it are removed.

        `token` is that of the writer's lease. Raises LeaseLostError where a higher one has written already,
        DiskFullError when the disk is full or the quota cannot be held, CheckpointError when the place cannot be
        written: what was there before is untouched, but for what had to go to make room.
        """
        return self._drafts.write(trial, kind, token, _content(files, info)).name

    def read(self, trial: int, kind: Kind, *, version: str | None = None) -> Checkpoint:
        """The version of that name where it is whole, else the newest that is.

        Raises CheckpointError, saying what is wrong with each, when there is none, and StoreUnavailableError where
        the place does not answer: then there may well be one.
        """
        found = [v for v in self._shelf.versions(trial) if v.kind == kind and not v.is_draft]
        damaged = []
        if version is not None and version not in {v.name for v in found}:
            damaged.append(f"{self.place}/{trial}/{version} is gone")
        for candidate in sorted(found, key=lambda v: v.name != version):
            try:
                return _checkpoint(candidate, *self._shelf.load(candidate), damaged)
            except StoreUnavailableError:
                raise
            except CheckpointError as error:
                damaged.append(str(error))
        why = "; ".join(damaged) or "none was written, or it was removed to save space"
        raise CheckpointError(f"trial {trial} has no {kind} checkpoint in {self.place} that can be used: {why}")

    def names(self, trial: int, kind: Kind) -> list[str]:
        """Names of the versions that are there, the newest first; reading may still find one damaged."""
        return [v.name for v in self._shelf.versions(trial) if v.kind == kind and not v.is_draft]

    def has(self, trial: int, kind: Kind) -> bool:
        """Whether any version is there; reading may still find it damaged."""
        return bool(self.names(trial, kind))

    def trials(self) -> set[int]:
        """Numbers of the trials of which anything is there."""
        parts = (found.key.split("/") for found in self._shelf.objects.list())
        return {int(trial) for trial, *inside in parts if inside and trial.isdecimal()}

    def drop(self, trials: Collection[int]) -> None:
        """Remove the checkpoints of these trials; of several workers that do so at once, each takes what is left.

        The caller names trials that nobody runs. A list of the ones to keep would miss those begun meanwhile.
        """
        for trial in self.trials().intersection(trials):
            self._shelf.remove(self._shelf.versions(trial))
            self._shelf.objects.delete(found.key for found in self._shelf.objects.list(f"{trial}/"))

    def discard(self, trial: int, kind: Kind) -> None:
        """Remove every version of one kind, where there is any: the `latest` of a trial that nobody goes on with."""
        self._shelf.remove(version for version in self._shelf.versions(trial) if version.kind == kind)

    def discard_damaged(self, trial: int, kind: Kind) -> None:
        """Remove the versions that cannot be used, so that they do not count among the two that are kept."""
        found = (version for version in self._shelf.versions(trial) if version.kind == kind and version.whole)
        self._shelf.remove(version for version in found if not self._shelf.is_sound(version))

    def keep_images(self, split_digest: str, content: bytes) -> None:
        """Write what `images` gives, unless it is there: the digests of the images of the split `split_digest`.

        It lies beside the trials, once for all of them. Raises CheckpointError as `write` does.
        """
        key = _images_key(split_digest)
        if key not in {found.key for found in self._shelf.objects.list(_IMAGES)}:
            self._shelf.objects.put(key, content)

    def images(self, split_digest: str) -> bytes | None:
        """What `keep_images` wrote; None where it is not there, as of studies of earlier versions of hpo."""
        try:
            return self._shelf.objects.get(_images_key(split_digest))
        except FileNotFoundError:
            return None

    def usage(self) -> int:
        """Bytes of all files of the study."""
        return sum(found.size for found in self._shelf.objects.list())

    def collect(self, finished: Collection[int], keep: Collection[int], *, dry_run: bool = False) -> Freed:
        """Remove what no unfinished trial and none to `keep` needs, and say what that frees; see `garbage.collect`."""
        return collect(self._shelf.objects, finished, keep, dry_run=dry_run)


def _images_key(split_digest: str) -> str:
    return f"{_IMAGES}{split_digest}.npy"


def _content(files: Mapping[str, bytes], info: Mapping[str, Any]) -> dict[str, bytes]:
    """Everything that a version consists of, the manifest last. TypeError when the notes are no JSON."""
    for name in files:
        if not _PLAIN_FILE.fullmatch(name) or name == MANIFEST:
            raise CheckpointError(f"{name!r} cannot be a file of a checkpoint; use letters, digits, `.`, `_` and `-`")
    return {**files, MANIFEST: CheckpointManifest.of(files, info).to_bytes()}


def _checkpoint(
    version: Version, manifest: CheckpointManifest, files: Mapping[str, bytes], damaged: list[str]
) -> Checkpoint:
    return Checkpoint(files, manifest.info, version.name, version.token, version.number, tuple(damaged))
