"""Pairs of images that may be copies: near in Hamming distance of their hashes, found without comparing all pairs.

Multi-index probing. Each of several tables sorts the hashes by their bits in an order of its own. A hash that is looked
up is compared with the few nearest places of each table, which share its first log2(n) bits or so: the width of the key
grows with the number of images by itself, and a bucket of many equal keys costs no more than any other. A pair of which
one bit in ten differs shares the first 13 bits in one table of four, so a dozen tables find nearly all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Labels
from hpo.data.picture_hash import BITS, CENTRE, VIEWS, Bits, Descriptions, PictureHash

TABLES = 12

PLACES = 8
"""The number of places of a table to which a hash is compared."""

FARTHEST = 12
"""The largest Hamming distance of a pair, of BITS bits."""

FARTHEST_VALUES = 60.0
"""The largest squared distance of a pair in the values of its hashes, under the best view.

In planted sets 99.7 % of the copies lie below it, and three of four other pairs of near hashes above.
"""

MOST_PER_IMAGE = 20
"""The number of candidates of an image that are kept, the nearest first."""

_LOOKED_UP = 16_384
"""Hashes that are looked up at once; bounds the memory."""

_KEPT_BETWEEN = 4_000_000
"""Found pairs that are held before those of each image are reduced to the nearest."""

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Candidates:
    """Pairs of images, the most alike first; of each, a view of the first resembles the centre of the second."""

    first: Labels
    second: Labels
    view: Labels
    """Positions in `picture_hash.VIEWS`."""

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | Labels) -> Candidates:
        return Candidates(self.first[chosen], self.second[chosen], self.view[chosen])


def find_candidates(pictures: PictureHash, described: Descriptions) -> Candidates:
    """Return pairs among n images that `pictures` has described under all views, each pair once.

    The order of the images plays no role as long as it is theirs by content.
    """
    centre = described.bits[_CENTRE]
    plain = _packed(centre)
    found = _Found(len(centre))
    for order in _orders(pictures.weights):
        keys = _packed(centre[:, order])
        places = np.argsort(keys, kind="stable")
        keys = keys[places]
        for view in range(len(VIEWS)):
            for begin in range(0, len(centre), _LOOKED_UP):
                looked_up = described.bits[view, begin : begin + _LOOKED_UP]
                at = np.searchsorted(keys, _packed(looked_up[:, order]))
                near = places[_window_of_places(at, len(places))]
                distance = _differing(_packed(looked_up)[:, None] ^ plain[near])
                found.add(begin, near, distance)
    return _nearest_views(*found.pairs(), described.values)


def _nearest_views(first: Labels, second: Labels, values: npt.NDArray[np.float16]) -> Candidates:
    """Return the pairs that are near under some view, in the order of their distance under the best one."""
    best = np.full(len(first), np.inf, dtype=np.float32)
    view = np.zeros(len(first), dtype=np.int64)
    swapped = np.zeros(len(first), dtype=np.bool_)
    for begin in range(0, len(first), _LOOKED_UP):
        some = slice(begin, begin + _LOOKED_UP)
        one, two = first[some], second[some]
        for number in range(len(VIEWS)):
            for turned, (seen, whole) in enumerate(((one, two), (two, one))):
                distance = np.square(values[number, seen].astype(np.float32) - values[_CENTRE, whole]).sum(axis=1)
                nearer = distance < best[some]
                best[some] = np.where(nearer, distance, best[some])
                view[some] = np.where(nearer, number, view[some])
                swapped[some] = np.where(nearer, bool(turned), swapped[some])
    seen, whole = np.where(swapped, second, first), np.where(swapped, first, second)
    order = np.lexsort((second, first, best))
    order = order[best[order] <= FARTHEST_VALUES]
    return Candidates(seen[order], whole[order], view[order])


_CENTRE = VIEWS.index(CENTRE)


def _orders(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return one order of the bits (TABLES, BITS) per table; bits that tell more come first more often."""
    # Exponential variables divided by weights: drawing without replacement in proportion to the weights.
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(TABLES, len(weights))) / np.sqrt(np.maximum(weights, 1e-9))
    return np.argsort(draws, axis=1)


def _packed(bits: Bits) -> Keys:
    """Return bits (n, BITS) as numbers (n,) whose order is that of the bits, the first bit first."""
    padded = np.zeros((len(bits), 64), dtype=np.bool_)
    padded[:, :BITS] = bits
    return np.packbits(padded, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _window_of_places(at: Labels, count: int) -> Labels:
    """Return (m, PLACES) places around m positions in a table of `count` rows."""
    places = min(PLACES, count)
    begin = np.clip(at - places // 2, 0, count - places)
    return np.asarray(begin[:, None] + np.arange(places))


_ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def _differing(difference: Keys) -> npt.NDArray[np.uint8]:
    """Return the number of bits that are set, (…) uint8."""
    halves = np.ascontiguousarray(difference).view(np.uint16).reshape(*difference.shape, 4)
    counts: npt.NDArray[np.uint8] = _ONES[halves].sum(axis=-1, dtype=np.uint8)
    return counts


class _Found:
    """The pairs that were found, reduced from time to time to the nearest of each image."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._found: list[npt.NDArray[np.int64]] = []
        self._held = 0

    def add(self, begin: int, near: Labels, distance: npt.NDArray[np.uint8]) -> None:
        """Add for each looked-up image, from row `begin` on, its near images (m, PLACES)."""
        first = np.broadcast_to(np.arange(begin, begin + len(near))[:, None], near.shape)
        kept = (distance <= FARTHEST) & (first != near)
        self._found.append(np.stack([first[kept], near[kept], distance[kept]]))
        self._held += self._found[-1].shape[1]
        if self._held > _KEPT_BETWEEN:
            self._reduce()

    def _reduce(self) -> None:
        """Keep each pair once, and the nearest of each image."""
        first, second, distance = np.concatenate(self._found, axis=1)
        order = np.lexsort((distance, second, first))
        first, second, distance = first[order], second[order], distance[order]
        new = _begins(first, second)
        first, second, distance = first[new], second[new], distance[new]
        order = np.lexsort((second, distance, first))
        first, second, distance = first[order], second[order], distance[order]
        near = np.arange(len(first)) - np.searchsorted(first, np.arange(self._images))[first] < MOST_PER_IMAGE
        self._found = [np.stack([first[near], second[near], distance[near]])]
        self._held = int(near.sum())

    def pairs(self) -> tuple[Labels, Labels]:
        """Return the pairs, each once."""
        self._reduce()
        one, two, _ = self._found[0]
        pair = np.unique(np.minimum(one, two) * self._images + np.maximum(one, two))
        return pair // max(1, self._images), pair % max(1, self._images)


def _begins(first: Labels, second: Labels) -> npt.NDArray[np.bool_]:
    """Return where a pair differs from the one before it."""
    new = np.ones(len(first), dtype=np.bool_)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return new
