"""CheckpointStore: the checkpoints of a study's trials in an object store. Atomic, checksummed, two versions deep.

    <root>/<study's id>/<trial>/latest-0000000042-00000007/   manifest.json and the files that it lists with SHA-256
    <root>/<study's id>/<trial>/latest-0000000041-00000006/   read when the one above is damaged
    <root>/<study's id>/images/<digest of the split>.npy      digests of the images that its trials were made with

CheckpointWriter announces each version with its size before its first byte, and only then checks that everything stored
and everything announced fits the quota. So of two writers that announce at once at least one sees the other, and
together they never exceed the quota, on any hosts and without a lock that a stopped process could hold. Both may find
the quota exceeded; each then withdraws its announcement and retries after a random pause.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from storage.checkpoint_versions import (
    MANIFEST,
    CheckpointManifest,
    Kind,
    Quota,
    Removal,
    Version,
    abandoned,
    eviction_order,
    first_to_free,
    format_size,
    is_sound,
    list_versions,
    load_version,
    next_draft,
    removals,
    remove_versions,
    spare_versions,
    superseded,
    unneeded,
    used_bytes,
    versions_in,
)
from storage.errors import CheckpointError, DiskFullError, LeaseLostError, StoreUnavailableError
from storage.objects import ObjectStore
from storage.retry import pauses

_IMAGES = "images/"

_PLAIN_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Checkpoint:
    """One version of a checkpoint, its checksums verified."""

    files: Mapping[str, bytes]
    info: Mapping[str, Any]
    """Notes of the writer, as JSON values."""
    name: str
    """Name of the version: `latest-<token>-<number>`."""
    token: int
    """Token of the lease under which it was written."""
    version: int
    """Number of the version among those of its token."""
    damaged: tuple[str, ...] = ()
    """Why preferred versions could not be used, one message each; empty unless this one is a fallback."""


class CheckpointStore:
    """The checkpoints of one study. One writer for each trial and token, any number of readers."""

    def __init__(self, objects: ObjectStore, *, quota: Quota | None = None) -> None:
        self._objects = objects
        self._writer = CheckpointWriter(objects, quota)
        self.place = objects.place

    def write(
        self, trial: int, kind: Kind, files: Mapping[str, bytes], info: Mapping[str, Any], *, token: int = 0
    ) -> str:
        """Write a version and return its name; it is durable on return. All older ones but one are removed.

        `token` is that of the writer's lease. Raises LeaseLostError when a holder of a higher token has written,
        DiskFullError when the disk is full or the quota would be exceeded, CheckpointError when the store cannot be
        written. Then no earlier version has changed, except those removed to make room.
        """
        return self._writer.write(trial, kind, token, _content(files, info)).name

    def read(self, trial: int, kind: Kind, *, version: str | None = None) -> Checkpoint:
        """Return the version of that name if it is sound, else the newest that is.

        Raises CheckpointError, naming the fault of each version, when none can be used, and StoreUnavailableError when
        the store does not answer: there may be one then.
        """
        found = [v for v in list_versions(self._objects, trial) if v.kind == kind and not v.is_draft]
        damaged = []
        if version is not None and version not in {v.name for v in found}:
            damaged.append(f"{self.place}/{trial}/{version} is gone")
        for candidate in sorted(found, key=lambda v: v.name != version):
            try:
                return _checkpoint(candidate, *load_version(self._objects, candidate), damaged)
            except StoreUnavailableError:
                raise
            except CheckpointError as error:
                damaged.append(str(error))
        why = "; ".join(damaged) or "none was written, or it was removed to save space"
        raise CheckpointError(f"trial {trial} has no {kind} checkpoint in {self.place} that can be used: {why}")

    def names(self, trial: int, kind: Kind) -> list[str]:
        """Return the names of the stored versions, the newest first; reading may still find one damaged."""
        return [v.name for v in list_versions(self._objects, trial) if v.kind == kind and not v.is_draft]

    def has(self, trial: int, kind: Kind) -> bool:
        """Return whether any version is stored; reading may still find it damaged."""
        return bool(self.names(trial, kind))

    def trials(self) -> set[int]:
        """Return the numbers of the trials of which anything is stored."""
        parts = (found.key.split("/") for found in self._objects.list())
        return {int(trial) for trial, *inside in parts if inside and trial.isdecimal()}

    def drop(self, trials: Collection[int]) -> None:
        """Remove the checkpoints of these trials; several workers may do so at once.

        The caller names trials that no worker runs. A list of trials to keep would miss those begun meanwhile.
        """
        for trial in self.trials().intersection(trials):
            remove_versions(self._objects, list_versions(self._objects, trial))
            self._objects.delete(one.key for one in self._objects.list(f"{trial}/"))

    def discard(self, trial: int, kind: Kind) -> None:
        """Remove every version of one kind, such as the `latest` of a trial that is not resumed any more."""
        versions = list_versions(self._objects, trial)
        remove_versions(self._objects, (version for version in versions if version.kind == kind))

    def discard_damaged(self, trial: int, kind: Kind) -> None:
        """Remove the versions that cannot be loaded, so that they do not count among the two that are kept."""
        whole = (version for version in list_versions(self._objects, trial) if version.kind == kind and version.whole)
        remove_versions(self._objects, (version for version in whole if not is_sound(self._objects, version)))

    def keep_images(self, split_digest: str, content: bytes) -> None:
        """Store the digests of the images of the split `split_digest` for `images`, unless they are stored.

        They are stored beside the trials, once for all of them. Raises CheckpointError as `write` does.
        """
        key = _images_key(split_digest)
        if key not in {found.key for found in self._objects.list(_IMAGES)}:
            self._objects.put(key, content)

    def images(self, split_digest: str) -> bytes | None:
        """Return what `keep_images` stored; None when nothing is, as in studies of earlier versions of hpo."""
        try:
            return self._objects.get(_images_key(split_digest))
        except FileNotFoundError:
            return None

    def usage(self) -> int:
        """Return the bytes of all files of the study."""
        return sum(found.size for found in self._objects.list())

    def collect(self, finished: Collection[int], keep: Collection[int], *, dry_run: bool = False) -> list[Removal]:
        """Remove what is `unneeded` by the rule of that function, and return it by trial; with `dry_run` keep it."""
        removed = unneeded(self._objects.list(), set(finished), set(keep))
        if not dry_run:
            self._objects.delete(one.key for one in removed)
        return removals(removed)


def _images_key(split_digest: str) -> str:
    return f"{_IMAGES}{split_digest}.npy"


def _content(files: Mapping[str, bytes], info: Mapping[str, Any]) -> dict[str, bytes]:
    """Return all files of a version by name, the manifest last. Raises TypeError when the notes are not JSON."""
    for name in files:
        if not _PLAIN_FILE.fullmatch(name) or name == MANIFEST:
            raise CheckpointError(f"{name!r} cannot be a file of a checkpoint; use letters, digits, `.`, `_` and `-`")
    return {**files, MANIFEST: CheckpointManifest.of(files, info).to_bytes()}


def _checkpoint(
    version: Version, manifest: CheckpointManifest, files: Mapping[str, bytes], damaged: list[str]
) -> Checkpoint:
    return Checkpoint(files, manifest.info, version.name, version.token, version.number, tuple(damaged))


VERSIONS_KEPT = 2

_TRIES = 30  # while others write: when they are done, older versions of theirs are removed

_PAUSE = 0.3  # seconds between two tries, at most

_ROUNDS = 10  # of making room, in case others fill it as fast


class CheckpointWriter:
    """Writes versions within the quota. One writer for each trial and token."""

    def __init__(self, objects: ObjectStore, quota: Quota | None) -> None:
        self._objects = objects
        self._quota = quota

    def write(self, trial: int, kind: Kind, token: int, content: Mapping[str, bytes]) -> Version:
        """Write a version, its objects in the order of `content`, and remove the versions that it supersedes."""
        draft = self._announce_with_retries(trial, kind, token, sum(map(len, content.values())))
        with self._withdrawn_on(BaseException, draft):
            for name, data in content.items():
                self._objects.put(draft.folder + name, data, settled=name == MANIFEST)
        # The version is durable: what is not removed now is removed after the next one.
        with suppress(CheckpointError), self._withdrawn_on(LeaseLostError, draft):
            self._tidy(draft)
        return draft

    def _announce_with_retries(self, trial: int, kind: Kind, token: int, need: int) -> Version:
        for _, pause in zip(range(_TRIES), pauses(_PAUSE, _PAUSE, jitter=1), strict=False):
            try:
                return self._announce(trial, kind, token, need)
            except DiskFullError:
                if not any(version.is_draft for version in list_versions(self._objects)):
                    raise
            time.sleep(pause)
        return self._announce(trial, kind, token, need)

    def _announce(self, trial: int, kind: Kind, token: int, need: int) -> Version:
        versions = list_versions(self._objects, trial)
        draft = next_draft(versions, trial, kind, token, need)
        _refuse_stale(versions, draft)
        with self._withdrawn_on(BaseException, draft):
            self._objects.put(draft.keys[0], b"", settled=False)
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
            objects = self._objects.list()
            excess = used_bytes(objects) - quota.limit
            if excess <= 0:
                return
            versions = versions_in(objects)
            spare = spare_versions(versions, draft, partial(is_sound, self._objects))
            chosen = first_to_free(eviction_order(versions, draft, quota.evictable(), spare), excess)
            if chosen is None:
                break
            remove_versions(self._objects, chosen)
        raise DiskFullError(
            f"a checkpoint of {format_size(draft.size)} does not fit into the quota of {format_size(quota.limit)} "
            f"beside what has to stay, {format_size(excess)} are wanting; raise --checkpoint-quota, lower --keep, or "
            "run fewer workers"
        )

    def _tidy(self, draft: Version) -> None:
        """Keep the newest versions; remove older ones, and unfinished ones of this writer and of earlier owners."""
        self._objects.delete(draft.keys)
        versions = list_versions(self._objects, draft.trial)
        _refuse_stale(versions, draft)
        own = [v for v in versions if v.kind == draft.kind and not v.whole and v.rank < draft.rank]
        old = superseded(versions, draft.trial, draft.kind, VERSIONS_KEPT)
        remove_versions(self._objects, [*old, *own, *abandoned(versions)])

    @contextmanager
    def _withdrawn_on(self, failure: type[BaseException], draft: Version) -> Iterator[None]:
        try:
            yield
        except failure:
            with suppress(CheckpointError):  # the first failure is the one to report
                versions = list_versions(self._objects, draft.trial)
                remove_versions(self._objects, (version for version in versions if version.name == draft.name))
            raise


def _refuse_stale(versions: list[Version], draft: Version) -> None:
    newer = next((version for version in versions if version.token > draft.token), None)
    if newer is not None:
        raise LeaseLostError(
            f"trial {draft.trial} is another worker's now, which has written {newer.name}; this one's {draft.name} "
            "does not count"
        )
