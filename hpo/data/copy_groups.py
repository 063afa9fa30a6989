"""Groups of images that show one picture: byte-equal, pixel-equal, or found and confirmed from their signatures.

Only digests and signatures are used, so the groups are the same at every packed size. Equal images are collapsed first.
Candidates come from `copy_candidates`; each is confirmed on aligned pixels (`alignment`). A group has a centre, the
image with the most confirmed copies, and every other image of the group is a confirmed copy of the centre: a chain of
copies of copies, or one wrong link between two groups, does not join them.
"""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpo.data.alignment import LEAST_STRUCTURE, fine_detail, resemblance
from hpo.data.copy_candidates import Candidates, find_candidates
from hpo.data.dataset import Labels, Progress, RecordedGroups
from hpo.data.picture_hash import CENTRE, VIEWS, PictureHash, PictureRows
from hpo.data.signatures import FieldRows, Signatures
from hpo.data.symmetries import inverse
from hpo.device import one_blas_thread
from hpo.files import write_file

VERSION = 2
"""The version of kept groups. It goes up when the search changes, so that older groups are looked for anew."""

_FILE = "copies.npz"

_COLUMNS = ("group_of", "centre", "symmetry", "similarity")

SIMILARITY = 0.88
"""The similarity from which two pictures are copies: the correlation of their details after alignment.

Planted copies (encoded anew, brightened, shifted, cropped, turned, and two of these together) of blood cells, hand
signs and grey images lie above 0.90 in 997 of 1,000 cases. The most alike of other pictures reach 0.86.
"""

_ALIKE = LEAST_STRUCTURE
"""The value that pairs must reach in 32 x 32 pixels to be compared in 64 x 64 (`_Pictures.compare`)."""

_DETAIL_WEIGHT = 0.2

_FAINT = 2.0
"""Standard deviation of the finest details, in grey levels, below which coarser ones count as much: JPEG hides them."""

_LEAST_COVER = 0.12
"""The share of a picture that must be compared: less is left where a copy is cut off by its brightness."""

_LARGEST_TINT = 40.0
"""The largest difference of the means of a colour channel, in grey levels, at equal brightness."""

_RECORDED = 16
"""The number of hex digits by which an image is recorded."""

_HELD = 50_000
"""The most images of which the thumbs are held in memory: 150 MB."""

_COMPARED = 2048
"""Pairs that are compared before the progress is shown."""

_DESCRIBED, _LOOKED_UP = 0.3, 0.25
"""The shares of the time that hashes take, and looking for candidates; comparing them takes the rest."""

_ROUNDS = 12

_TRIED = 2
"""The number of candidates of one image that are tried, the most alike first."""


@dataclass(frozen=True)
class CopyGroups:
    """The groups of n images. Every image is in one group; most are alone in it."""

    group_of: Labels
    """(n,) int64, numbered by the first image of each group."""
    centre: Labels
    """(n,) int64: the row of the centre of the image's group."""
    symmetry: Labels
    """(n,) int64: the image is the centre turned so (`symmetries`)."""
    similarity: npt.NDArray[np.float64]
    """(n,) in [0, 1], to the centre; 1 for equal pixels."""

    def names(self, digests: Sequence[tuple[str, str]]) -> list[str]:
        """Return a name for the group of each image, from the digests (stored, pixels) of the images."""
        first: dict[int, str] = {}
        for group, (stored, _) in zip(self.group_of.tolist(), digests, strict=True):
            first[group] = min(stored, first.get(group, stored))
        return [first[group] for group in self.group_of.tolist()]


def find_copy_groups(
    signatures: Signatures,
    digests: Sequence[tuple[str, str]],
    cache: Path | None = None,
    progress: Progress | None = None,
) -> CopyGroups:
    """Return the groups of copies among n images, from their signatures and their digests (stored, pixels).

    The order of the images plays no role. The groups are kept in the folder `cache` of the pack, where later calls find
    them. `progress` gets the images that are done, by the time that steps take.
    """
    known = None if cache is None else _read_groups(cache / _FILE, len(digests))
    if known is not None:
        return known
    with one_blas_thread():
        found = _find_groups(signatures, digests, progress or _silent)
    if cache is not None:
        _keep_groups(found, cache / _FILE)
    return found


def _read_groups(path: Path, count: int) -> CopyGroups | None:
    """Return the kept groups of `count` images; None where there are none, or those of another version."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            groups = CopyGroups(*(kept[name] for name in _COLUMNS))
            whole = int(kept["version"]) == VERSION
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return groups if whole and all(column.shape == (count,) for column in vars(groups).values()) else None


def _keep_groups(groups: CopyGroups, path: Path) -> None:
    content = io.BytesIO()
    np.savez(content, version=np.int64(VERSION), **vars(groups))
    with suppress(OSError):  # a full or read-only disk: they are looked for again
        write_file(path, content.getvalue())


def _silent(done: int, total: int) -> None:
    """Show nothing."""


def _step(progress: Progress, images: int, begin: float, end: float) -> Progress:
    """Return the progress of a step that lasts from one share of the whole time to another."""

    def report(done: int, total: int) -> None:
        progress(round(images * (begin + (end - begin) * done / max(1, total))), images)

    return report


def _find_groups(signatures: Signatures, digests: Sequence[tuple[str, str]], progress: Progress) -> CopyGroups:
    rows, inverse = _different_images(digests)
    thumbs = FieldRows(signatures["thumb"], rows)
    held = thumbs[:] if len(rows) <= _HELD else thumbs  # each is looked at several times
    pictures = _Pictures(held, FieldRows(signatures["grey"], rows))
    links = _confirmed(pictures, partial(_step, progress, len(digests)))
    area = signatures["width"][rows].astype(np.int64) * signatures["height"][rows]
    among = _grouped(pictures, links, area)
    centre = rows[among.centre[inverse]]
    # Equal images have one centre among them: the row that stands for all of them.
    return CopyGroups(_numbered(centre), centre, among.symmetry[inverse], among.similarity[inverse])


def record(groups: CopyGroups, digests: Sequence[tuple[str, str]]) -> RecordedGroups:
    """Return the groups that hold different images, in a form that a study keeps and that depends on content alone."""
    stored: dict[int, set[str]] = defaultdict(set)
    pixels: dict[int, set[str]] = defaultdict(set)
    for group, (one, other) in zip(groups.group_of.tolist(), digests, strict=True):
        stored[group].add(one[:_RECORDED])
        pixels[group].add(other)
    return tuple(sorted(tuple(sorted(stored[group])) for group, found in pixels.items() if len(found) > 1))


def recorded_keys(groups: RecordedGroups, stored: Sequence[str]) -> list[str | None]:
    """Return a key for each image (n digests of stored bytes), equal in a recorded group; None for one in no group."""
    key = {digest: group[0] for group in groups for digest in group}
    return [key.get(digest[:_RECORDED]) for digest in stored]


def _different_images(digests: Sequence[tuple[str, str]]) -> tuple[Labels, Labels]:
    """Return one row of each group of equal pixels, in the order of their digests, and each image's place in them."""
    rows: dict[str, tuple[str, int]] = {}
    for row, (stored, pixels) in enumerate(digests):
        rows[pixels] = min((stored, row), rows.get(pixels, (stored, row)))
    order = {pixels: place for place, pixels in enumerate(sorted(rows))}
    inverse = np.array([order[pixels] for _, pixels in digests], dtype=np.int64)
    return np.array([rows[pixels][1] for pixels in order], dtype=np.int64), inverse


def _numbered(centre: Labels) -> Labels:
    """Number groups by their first image."""
    _, first, inverse = np.unique(centre, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


@dataclass(frozen=True)
class _Pictures:
    """The small pictures of different images, each from its signature."""

    thumbs: PictureRows
    """(n, 32, 32, 3)"""
    greys: PictureRows
    """(n, 64, 64)"""

    def __len__(self) -> int:
        return len(self.thumbs)

    def compare(self, first: Labels, second: Labels, view: Labels) -> tuple[Labels, npt.NDArray[np.float64]]:
        """Return symmetry and similarity (m,) of pairs; the similarity is 0 where the pictures are not alike at all."""
        found = resemblance(self.thumbs, first, second, view)
        alike = found.structure - _DETAIL_WEIGHT * (1 - found.detail) >= _ALIKE
        alike &= (found.cover >= _LEAST_COVER) & (found.colour <= _LARGEST_TINT)
        rows = np.flatnonzero(alike)
        similarity = np.zeros(len(first))
        if len(rows):
            detail, deviation = fine_detail(self.greys, first[rows], second[rows], found.at(rows))
            share = deviation**2 / (deviation**2 + _FAINT**2)
            similarity[rows] = np.clip(share * detail + (1 - share) * found.detail[rows], 0, 1)
        return found.symmetry, similarity


@dataclass(frozen=True)
class _Links:
    """Confirmed pairs of different images."""

    first: Labels
    second: Labels
    symmetry: Labels
    """The second is the first turned so."""
    similarity: npt.NDArray[np.float64]

    def between(self, pairs: Labels) -> tuple[Labels, npt.NDArray[np.float64]]:
        """Return symmetry and similarity (m,) of pairs (m, 2); a similarity of 0 where a pair is not linked."""
        symmetry, similarity = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs))
        known = zip(self.first.tolist(), self.second.tolist(), strict=True)
        number = {pair: place for place, pair in enumerate(known)}
        for place, (one, two) in enumerate(pairs.tolist()):
            if (link := number.get((one, two))) is not None:
                symmetry[place], similarity[place] = self.symmetry[link], self.similarity[link]
            elif (link := number.get((two, one))) is not None:
                symmetry[place], similarity[place] = inverse(int(self.symmetry[link])), self.similarity[link]
        return symmetry, similarity


def _confirmed(pictures: _Pictures, step: Callable[[float, float], Progress]) -> _Links:
    """Return the candidates that are copies; not those whose ends are joined by others already."""
    progress = step(_DESCRIBED + _LOOKED_UP, 1.0)
    done = 0
    joined = _Joined(len(pictures))
    none = np.zeros(0, dtype=np.int64)
    links = [_Links(none, none, none, np.zeros(0))]
    for candidates, left in _in_rounds(pictures.thumbs, joined, step):
        for begin in range(0, len(candidates), _COMPARED):
            some = candidates[np.arange(begin, min(begin + _COMPARED, len(candidates)))]
            symmetry, similarity = pictures.compare(some.first, some.second, some.view)
            same = similarity >= SIMILARITY
            links.append(_Links(some.first[same], some.second[same], symmetry[same], similarity[same]))
            progress(done + begin, done + max(left, len(candidates)))
            for first, second in zip(links[-1].first.tolist(), links[-1].second.tolist(), strict=True):
                joined.join(first, second)
        done += len(candidates)
    progress(1, 1)
    return _Links(**{name: np.concatenate([getattr(some, name) for some in links]) for name in vars(links[0])})


def _in_rounds(
    thumbs: PictureRows, joined: _Joined, step: Callable[[float, float], Progress]
) -> Iterator[tuple[Candidates, int]]:
    """Yield the candidates to be tried next: of each image the nearest that is not in its group yet.

    With them the number of those that may be tried, these included.
    """
    if len(thumbs) < 2:
        return
    hashes = PictureHash.learn(thumbs)
    described = hashes.describe(thumbs, progress=step(0.0, _DESCRIBED))
    left = find_candidates(hashes, described, progress=step(_DESCRIBED, _DESCRIBED + _LOOKED_UP))
    near = _rank(left, len(thumbs)) < _TRIED
    for _ in range(_ROUNDS):
        roots = joined.roots()
        grouped = np.bincount(roots, minlength=len(thumbs))[roots] > 1
        # Where there are very many copies of one picture, the nearest of an image lie in a part of its group only.
        wanted = near | (grouped[left.first] & grouped[left.second])
        places = np.flatnonzero(wanted & (roots[left.first] != roots[left.second]))
        if not len(places):
            return
        tried = places[_first_of_each(left[places])]
        yield left[tried], int(np.count_nonzero(near))
        rest = np.ones(len(left), dtype=np.bool_)
        rest[tried] = False
        left, near = left[rest], near[rest]


def _rank(candidates: Candidates, count: int) -> Labels:
    """Return how many candidates of the one image, or of the other, come before a pair: the smaller number."""
    ends = np.stack([candidates.first, candidates.second], axis=1).reshape(-1)
    order = np.argsort(ends, kind="stable")
    rank = np.empty(len(ends), dtype=np.int64)
    rank[order] = np.arange(len(ends)) - np.searchsorted(ends[order], np.arange(count))[ends[order]]
    return np.asarray(rank.reshape(-1, 2).min(axis=1))


def _first_of_each(candidates: Candidates) -> Labels:
    """Return the places of the first candidate of each image, on either side of a pair."""
    _, first = np.unique(candidates.first, return_index=True)
    _, second = np.unique(candidates.second, return_index=True)
    return np.union1d(first, second)


class _Joined:
    """Sets of images that links join (union-find)."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def join(self, first: int, second: int) -> None:
        """Join the sets of two images; the smaller number becomes the root."""
        one, two = self._root(first), self._root(second)
        self._parent[max(one, two)] = min(one, two)

    def _root(self, image: int) -> int:
        parent = self._parent
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = int(parent[image])
        return image

    def roots(self) -> Labels:
        """Return the root (n,) of each image."""
        roots = self._parent
        while (roots[roots] != roots).any():
            roots = roots[roots]
        self._parent = roots.copy()
        return roots


def _grouped(pictures: _Pictures, links: _Links, area: Labels) -> CopyGroups:
    """Return groups around centres, from links between different images."""
    count = len(pictures)
    groups = CopyGroups(np.arange(count), np.arange(count), np.zeros(count, dtype=np.int64), np.ones(count))
    joined = _Joined(count)
    for first, second in zip(links.first.tolist(), links.second.tolist(), strict=True):
        joined.join(first, second)
    degree = np.bincount(np.concatenate([links.first, links.second]), minlength=count)
    order = np.lexsort((np.arange(count), -area, -degree))
    waiting = _members(joined.roots(), order[degree[order] > 0])
    while waiting:
        # Each round settles one centre in every set that is left, so all sets are compared at once.
        pairs = [(members[0], row) for members in waiting for row in members[1:]]
        settled = _settle(groups, pictures, links, np.array(pairs, dtype=np.int64))
        left = ([row for row in members[1:] if row not in settled] for members in waiting)
        waiting = [members for members in left if len(members) > 1]
    return replace(groups, group_of=_numbered(groups.centre))


def _members(roots: Labels, rows: Labels) -> list[list[int]]:
    """Return the rows of each set, in their order."""
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows.tolist():
        members[int(roots[row])].append(row)
    return list(members.values())


def _settle(groups: CopyGroups, pictures: _Pictures, links: _Links, pairs: Labels) -> set[int]:
    """Confirm pairs (m, 2) of a centre and another image; enter the copies into `groups` and return them."""
    symmetry, similarity = links.between(pairs)
    for swapped in (False, True):
        # An alignment may end in a wrong place from one side and not from the other.
        left = np.flatnonzero(similarity < SIMILARITY)
        one, two = pairs[left].T[::-1] if swapped else pairs[left].T
        turns, similarity[left] = pictures.compare(one, two, np.full(len(one), VIEWS.index(CENTRE)))
        symmetry[left] = [inverse(turn) if swapped else turn for turn in turns.tolist()]
    same = similarity >= SIMILARITY
    rows = pairs[same, 1]
    groups.centre[rows] = pairs[same, 0]
    groups.symmetry[rows] = symmetry[same]
    groups.similarity[rows] = similarity[same]
    return set(rows.tolist())
