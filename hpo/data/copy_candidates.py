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
from hpo.data.picture_hash import BITS, CENTRE, VIEWS, Bits, PictureHash

TABLES = 12

PLACES = 8
"""The number of places of a table to which a hash is compared."""

FARTHEST = 10
"""The largest Hamming distance of a pair, of BITS bits."""

MOST_PER_IMAGE = 8
"""The number of candidates of an image that are kept, the nearest first."""

_LOOKED_UP = 16_384
"""Hashes that are looked up at once; bounds the memory."""

_KEPT_BETWEEN = 4_000_000
"""Found pairs that are held before those of each image are reduced to the nearest."""

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Candidates:
    """Pairs of images; of each, a view of the first resembles the centre of the second."""

    first: Labels
    second: Labels
    view: Labels
    """Positions in `picture_hash.VIEWS`."""
    distance: Labels
    """Hamming distances."""

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | Labels) -> Candidates:
        return Candidates(self.first[chosen], self.second[chosen], self.view[chosen], self.distance[chosen])


def find_candidates(bits: Bits, pictures: PictureHash) -> Candidates:
    """Return the pairs among n images from their bits (len(VIEWS), n, BITS), each pair once, nearest first.

    `pictures` made the bits. The order of the images plays no role as long as it is theirs by content.
    """
    centre = bits[_CENTRE]
    plain = _packed(centre)
    found = _Found(bits.shape[1])
    for order in _orders(pictures.weights):
        keys = _packed(centre[:, order])
        places = np.argsort(keys, kind="stable")
        keys = keys[places]
        for view in range(len(VIEWS)):
            for begin in range(0, bits.shape[1], _LOOKED_UP):
                looked_up = bits[view, begin : begin + _LOOKED_UP]
                at = np.searchsorted(keys, _packed(looked_up[:, order]))
                near = places[_window_of_places(at, len(places))]
                distance = _differing(_packed(looked_up)[:, None] ^ plain[near])
                found.add(begin, near, distance, view)
    return found.nearest()


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
        self._codes: list[npt.NDArray[np.int64]] = []
        self._held = 0

    def add(self, begin: int, near: Labels, distance: npt.NDArray[np.uint8], view: int) -> None:
        """Add for each looked-up image, from row `begin` on, its near images (m, PLACES)."""
        first = np.broadcast_to(np.arange(begin, begin + len(near))[:, None], near.shape)
        kept = (distance <= FARTHEST) & (first != near)
        # The distance stands above the view, so the smallest code of a pair is its nearest view.
        code = distance[kept].astype(np.int64) * len(VIEWS) + view
        self._codes.append(np.stack([first[kept], near[kept], code]))
        self._held += code.size
        if self._held > _KEPT_BETWEEN:
            self._reduce()

    def _reduce(self) -> None:
        first, second, code = np.concatenate(self._codes, axis=1)
        order = np.lexsort((code, second, first))
        first, second, code = first[order], second[order], code[order]
        new = np.ones(len(first), dtype=np.bool_)
        new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        first, second, code = first[new], second[new], code[new]
        order = np.lexsort((second, code, first))
        first, second, code = first[order], second[order], code[order]
        begins = np.searchsorted(first, np.arange(self._images))
        near = np.arange(len(first)) - begins[first] < MOST_PER_IMAGE
        self._codes = [np.stack([first[near], second[near], code[near]])]
        self._held = int(near.sum())

    def nearest(self) -> Candidates:
        """Return the pairs, each once."""
        self._reduce()
        first, second, code = self._codes[0]
        pair = np.minimum(first, second) * self._images + np.maximum(first, second)
        order = np.lexsort((first, code, pair))
        pair = pair[order]
        new = np.ones(len(pair), dtype=np.bool_)
        new[1:] = pair[1:] != pair[:-1]
        kept = order[new]
        kept = kept[np.lexsort((second[kept], first[kept], code[kept]))]
        return Candidates(first[kept], second[kept], code[kept] % len(VIEWS), code[kept] // len(VIEWS))
