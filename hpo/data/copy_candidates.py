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

from hpo.data.dataset import Labels, Progress
from hpo.data.picture_hash import BITS, CENTRE, VIEWS, Descriptions, Keys, PictureHash

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

_LOOKED_UP = 1024
"""Images that are looked up at once; bounds the memory. Times the views it must stay below 2^16 (`_HashTable.near`)."""

_COMPARED = 512
"""Pairs of which the values are compared at once."""

_FREE = np.uint64((1 << 16) - 1)
"""The bits of a key that a hash leaves free."""

_DISTANCES = 16
"""More than the largest Hamming distance of a pair."""

_ROUNDING = 1e-4
"""More than the rounding error of a distance in single precision, as a share of the largest squared length."""


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


def find_candidates(
    pictures: PictureHash, described: Descriptions, progress: Progress | None = None
) -> Candidates:  # fmt: skip
    """Return pairs among n images that `pictures` has described under all views, each pair once.

    The order of the images plays no role as long as it is theirs by content.
    """
    count = described.keys.shape[1]
    tables = [_HashTable.of(described.keys[_CENTRE], order) for order in _orders(pictures.weights)]
    found = []
    for begin in range(0, count, _LOOKED_UP):
        found.append(_nearest(tables, described.keys, begin))
        if progress:
            progress(min(begin + _LOOKED_UP, count), count)
    first, second = np.concatenate(found, axis=1)
    pair = np.sort(np.minimum(first, second) * count + np.maximum(first, second))
    pair = pair[np.diff(pair, prepend=-1) > 0]
    return _nearest_views(pair // max(1, count), pair % max(1, count), described.values)


def _nearest(tables: list[_HashTable], hashes: Keys, begin: int) -> Labels:
    """Return pairs (2, m) of the images from row `begin` on with the nearest of those that a table finds."""
    some, count = hashes[:, begin : begin + _LOOKED_UP], hashes.shape[1]
    rows = np.tile(np.arange(begin, begin + some.shape[1]), len(some))
    # A pair and its distance in one number, because NumPy sorts numbers far faster than rows.
    found = np.sort(np.concatenate([table.near(some.reshape(-1), rows) for table in tables]))
    pair = found // _DISTANCES
    found = found[np.diff(pair, prepend=-1) > 0]
    pair, distance = found // _DISTANCES, found % _DISTANCES
    first, second = pair // count, pair % count
    ranked = np.sort((first * _DISTANCES + distance) * count + second)
    first, second = ranked // (count * _DISTANCES), ranked % count
    rank = np.arange(len(first)) - np.searchsorted(first, first)
    return np.stack([first, second])[:, rank < MOST_PER_IMAGE]


@dataclass(frozen=True)
class _HashTable:
    """The hashes of n images, sorted by their bits in an order of the table's own."""

    keys: Keys
    """(n,) sorted."""
    images: Labels
    """(n,) the image of each key."""
    moved: Keys
    """(BITS / 8, 256) for each byte of a hash and its value, the bits of the key that it sets."""

    @classmethod
    def of(cls, hashes: Keys, order: Labels) -> _HashTable:
        """Sort hashes (n,); bit k of a key is bit `order[k]` of a hash, counted from the highest."""
        place = np.empty(BITS, dtype=np.int64)
        place[order] = np.arange(BITS)
        ones = np.uint64(1) << (63 - place).astype(np.uint64)
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.uint64)
        moved = np.bitwise_or.reduce(bits[None] * ones.reshape(-1, 1, 8), axis=2)
        keys = _moved(hashes, moved)
        images = np.argsort(keys, kind="stable")
        return cls(keys[images], images, moved)

    def near(self, hashes: Keys, rows: Labels) -> Labels:
        """Return which images lie near hashes (m,) of the images `rows` (m,), m < 2^16.

        Each is (row * n + image) * 16 + Hamming distance; a hash is not near the image that it is of.
        """
        # Looked up in the order of the keys, which is several times as fast: the free bits hold the place of a hash.
        ordered = np.sort(_moved(hashes, self.moved) | np.arange(len(hashes), dtype=np.uint64))
        rows, keys = rows[(ordered & _FREE).astype(np.int64)], ordered & ~_FREE
        places = min(PLACES, len(self.keys))
        begin = np.clip(np.searchsorted(self.keys, keys) - places // 2, 0, len(self.keys) - places)
        windows = np.lib.stride_tricks.sliding_window_view(self.keys, places)[begin]
        distance = _differing(windows ^ keys[:, None])
        hash_, place = np.nonzero(distance <= FARTHEST)
        rows, images = rows[hash_], self.images[begin[hash_] + place]
        found = (rows * len(self.keys) + images) * _DISTANCES + distance[hash_, place]
        return np.asarray(found[rows != images])


def _moved(hashes: Keys, moved: Keys) -> Keys:
    """Return hashes (m,) with their bits in another order (`_HashTable.moved`)."""
    octets = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    keys: Keys = moved[0][octets[:, 0]]
    for number in range(1, len(moved)):
        keys |= moved[number][octets[:, number]]
    return keys


def _nearest_views(first: Labels, second: Labels, values: npt.NDArray[np.float16]) -> Candidates:
    """Return the pairs that are near under some view, in the order of their distance under the best one."""
    # Image by image, so that all views of one are read at once.
    views = np.ascontiguousarray(values.swapaxes(0, 1), dtype=np.float32)
    squares = np.square(views).sum(axis=2)
    best = np.empty(len(first), dtype=np.float32)
    way = np.empty(len(first), dtype=np.int64)
    for begin in range(0, len(first), _COMPARED):
        some = slice(begin, begin + _COMPARED)
        best[some], way[some] = _best_ways(np.stack([first[some], second[some]]), views, squares)
    near = np.flatnonzero(best <= FARTHEST_VALUES)
    order = near[np.lexsort((second[near], first[near], best[near]))]
    seen, whole = np.where(way % 2, second, first), np.where(way % 2, first, second)
    return Candidates(seen[order], whole[order], way[order] // 2)


def _best_ways(
    pairs: Labels, views: npt.NDArray[np.float32], squares: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], Labels]:
    """Return the least squared distance of pairs (2, m) over all views, and the way to it; infinite where it is far.

    Way 2 v compares view v of the first with the centre of the second, way 2 v + 1 the other way round. `squares`
    (n, views) are those of the lengths of the values (n, views, VALUES).
    """
    # By |a|^2 + |b|^2 - 2 a b first, which is quick, and exactly for those that are the nearest by that.
    about = np.stack(
        [
            squares[seen] + squares[whole, None, _CENTRE] - 2 * (views[seen] @ views[whole, _CENTRE, :, None])[..., 0]
            for seen, whole in (pairs, pairs[::-1])
        ],
        axis=2,
    ).reshape(pairs.shape[1], -1)
    limit = np.minimum(about.min(axis=1), FARTHEST_VALUES) + _ROUNDING * max(1.0, float(squares.max()))
    place, way = np.nonzero(about <= limit[:, None])
    seen, whole = pairs[way % 2, place], pairs[1 - way % 2, place]
    distances = np.full(about.shape, np.inf, dtype=np.float32)
    distances[place, way] = np.square(views[seen, way // 2] - views[whole, _CENTRE]).sum(axis=1)
    best = distances.argmin(axis=1)
    return distances[np.arange(len(best)), best], best


_CENTRE = VIEWS.index(CENTRE)

assert len(VIEWS) * _LOOKED_UP <= _FREE


def _orders(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return one order of the bits (TABLES, BITS) per table; bits that tell more come first more often."""
    # Exponential variables divided by weights: drawing without replacement in proportion to the weights.
    rng = np.random.default_rng(0)
    draws = rng.exponential(size=(TABLES, len(weights))) / np.sqrt(np.maximum(weights, 1e-9))
    return np.argsort(draws, axis=1)


_ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


def _differing(difference: Keys) -> npt.NDArray[np.uint8]:
    """Return the number of bits that are set, (…) uint8."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(difference)
    halves = np.ascontiguousarray(difference).view(np.uint16).reshape(*difference.shape, 4)
    counts: npt.NDArray[np.uint8] = _ONES[halves].sum(axis=-1, dtype=np.uint8)
    return counts
