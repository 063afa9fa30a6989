"""Drafts: versions that are being written, each announced with its size before its first byte.

Whoever announces a draft looks only then whether all that lies there, and all that is announced, fits the quota. So of
two that do this at once at least one sees the other: together they never exceed it, on whatever hosts they run and
without a lock that a stopped process could hold. Both may find it too full; then each takes its word back and tries
again after a pause of random length.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from storage.errors import CheckpointError, DiskFullError, LeaseLostError
from storage.manifest import MANIFEST
from storage.quota import Quota, dispensable, enough, expendable, format_size
from storage.shelf import Shelf
from storage.versions import Kind, Version, abandoned, found_versions, next_draft, superseded, used

VERSIONS_KEPT = 2
_TRIES = 30  # while others write: when they are done, older versions of theirs go
_PAUSE = 0.3  # seconds at most between two tries
_ROUNDS = 10  # of making room, should others fill it as fast


class Drafts:
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
