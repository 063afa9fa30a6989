"""Candidates for copies: those that looking at every place of every table, pair by pair, would give."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.data import copy_candidates
from hpo.data.copy_candidates import FARTHEST, FARTHEST_VALUES, MOST_PER_IMAGE, PLACES, find_candidates
from hpo.data.picture_hash import BITS, CENTRE, VALUES, VIEWS, Descriptions, PictureHash

CENTRE_VIEW = VIEWS.index(CENTRE)


def described(count: int, seed: int) -> tuple[PictureHash, Descriptions, np.ndarray]:
    """Hashes of pictures of which every fourth resembles the one before it, and their bits (views, n, BITS)."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (1, count, BITS), dtype=np.uint8)
    values = rng.normal(0, 4, (1, count, VALUES))
    bits[:, 3::4], values[:, 3::4] = bits[:, 2::4][:, : len(bits[0, 3::4])], values[:, 2::4][:, : len(bits[0, 3::4])]
    flips = rng.random((len(VIEWS), count, BITS)) < 0.08
    bits = bits ^ flips
    values = (values + rng.normal(0, 1, (len(VIEWS), count, VALUES))).astype(np.float16)
    packed = np.packbits(np.concatenate([bits, np.zeros((len(VIEWS), count, 64 - BITS), np.uint8)], axis=2), axis=2)
    pictures = PictureHash(np.zeros(1), np.zeros((1, BITS)), np.zeros(BITS), rng.uniform(1, 9, BITS))
    return pictures, Descriptions(packed.view(">u8")[..., 0].astype(np.uint64), values), bits


def expected(pictures: PictureHash, found: Descriptions, bits: np.ndarray) -> list[tuple[int, int, int]]:
    """First, second and view of each candidate, found place by place in Python."""
    count = bits.shape[1]
    near: dict[int, dict[int, int]] = {row: {} for row in range(count)}
    for order in copy_candidates._orders(pictures.weights):
        keys = ["".join(map(str, bits[CENTRE_VIEW, row, order])) for row in range(count)]
        sorted_rows = sorted(range(count), key=lambda row: (keys[row], row))
        for view in range(len(VIEWS)):
            for row in range(count):
                key = "".join(map(str, bits[view, row, order]))
                at = sum(keys[other] < key for other in range(count))
                begin = min(max(at - PLACES // 2, 0), max(0, count - PLACES))
                for other in sorted_rows[begin : begin + PLACES]:
                    distance = int((bits[view, row] != bits[CENTRE_VIEW, other]).sum())
                    if other != row and distance <= FARTHEST:
                        near[row][other] = min(distance, near[row].get(other, BITS))
    pairs = {
        (min(row, other), max(row, other))
        for row, others in near.items()
        for other in sorted(others, key=lambda other: (others[other], other))[:MOST_PER_IMAGE]
    }
    ranked = []
    for first, second in pairs:
        ways = [
            (np.square(values[seen].astype(np.float32) - found.values[CENTRE_VIEW, whole]).sum(), view, seen, whole)
            for view, values in enumerate(found.values)
            for seen, whole in ((first, second), (second, first))
        ]
        distance, view, seen, whole = min(ways, key=lambda way: way[0])
        if distance <= FARTHEST_VALUES:
            ranked.append((distance, first, second, seen, whole, view))
    return [(seen, whole, view) for *_, seen, whole, view in sorted(ranked)]


@pytest.mark.parametrize(("count", "block"), [(36, 1024), (23, 7), (2, 1024)])
def test_the_candidates_are_those_of_every_place_of_every_table(
    monkeypatch: pytest.MonkeyPatch, count: int, block: int
) -> None:
    monkeypatch.setattr(copy_candidates, "_LOOKED_UP", block)
    monkeypatch.setattr(copy_candidates, "_COMPARED", block)
    pictures, found, bits = described(count, seed=count)
    candidates = find_candidates(pictures, found)
    told = list(zip(candidates.first.tolist(), candidates.second.tolist(), candidates.view.tolist(), strict=True))
    assert told == expected(pictures, found, bits)
    assert told or count < 4


def test_numpy_without_a_bit_count_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 63, (3, 4), dtype=np.uint64)
    counted = copy_candidates._differing(values).tolist()
    assert counted == [[int(value).bit_count() for value in row] for row in values]
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert copy_candidates._differing(values).tolist() == counted
