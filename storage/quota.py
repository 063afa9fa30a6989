"""Quota: how many bytes the checkpoints of a study may take, and what goes to make room for the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from storage.versions import KINDS, Version, abandoned, superseded


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
