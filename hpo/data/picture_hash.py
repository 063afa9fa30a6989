"""A perceptual hash that is the same for the eight symmetries of an image, computed from one DCT.

The low DCT coefficients c[u, v] of the luma change under turning and mirroring only by swapped axes and changed signs
of the odd frequencies. The features are polynomials in them that none of these changes: sums c[u, v] + c[v, u] of even
frequencies, products of two coefficients that change their signs together, and products of three. The luma and the
cosines are whole numbers, small enough for every sum to be exact in float64, so the features of a turned image are
equal to the last bit.

The hash of an image is taken from its centre. A copy that was shifted or cropped shows another window there, so an
image is looked up under the hashes of several windows (`VIEWS`); so are copies whose brightest parts were cut off.
Directions in the space of features that change
little between the windows of an image, and much between images, become the bits (linear discriminant analysis); they
are learned from the images themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Progress
from hpo.data.signatures import THUMB

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

FREQUENCIES = 7
"""The number of frequencies of each axis, from 0 on."""

BITS = 48

VALUES = 24
"""The number of directions of which the value is kept, beside the bit."""


class PictureRows(Protocol):
    """Pictures (n, S, S, …) uint8 of which only those asked for need be in memory; an array is one."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, rows: Any, /) -> Images:
        """Return some pictures, by a slice or by rows (m,)."""


@dataclass(frozen=True)
class View:
    """A changed version of an image: a window of it, and its brightness."""

    side: float
    """The side of the window, as a share of the image."""
    down: float = 0.0
    """How far the window lies below the centre, as a share of the image."""
    right: float = 0.0
    gain: float = 1.0
    """The factor of all values; what exceeds 255 is cut off."""


CENTRE = View(0.9)
"""The view of which the hash of an image is taken."""

VIEWS = (
    CENTRE,
    *(View(0.9, down, right) for down in (-0.045, 0.0, 0.045) for right in (-0.045, 0.0, 0.045) if down or right),
    *(View(0.82, down, right) for down in (-0.035, 0.035) for right in (-0.035, 0.035)),
    View(0.85),
    View(0.9, gain=1.15),
    View(0.9, gain=1.3),
)
"""The views under which an image is looked up. The set is the same for a turned image."""

_VARIED = (View(0.9, 0.04, 0), View(0.9, -0.03, 0.03), View(0.85), View(0.86, 0.02, -0.03), View(0.95))
"""The views that show how much the features of an image change under shifts and crops."""

_SCALE = 4096
"""A cosine of 1 as a whole number: 255,000 for the luma, times 4096 and 32 pixels twice, stays below 2^53."""

_FLAT = 2.0
"""Standard deviation of the luma, in grey levels, below which the features of an image shrink to zero."""

_GRID = 2.0**20

_RIDGE = 1e-4

_TELLING = 1.5
"""The least ratio of the variance between images to that within an image, for a bit to be used."""

_CHUNK = 256
"""Images that are described at once; what is computed of them should stay in the cache."""

_LEARNED = 4000
"""The most images from which the directions are learned."""


def luma_thousandths(thumbs: Images, gain: float = 1.0) -> Floats:
    """Return the luma (n, S, S) of RGB (n, S, S, 3) uint8 in thousandths of a grey level, as whole numbers.

    The values are first multiplied by `gain`, and cut off at 255.
    """
    values = _brightened(thumbs, gain) if gain != 1 else thumbs
    # Channel by channel: NumPy's product with a vector of three is three times as slow.
    luma = np.multiply(values[..., 0], 299, dtype=np.int32)
    for channel, weight in ((1, 587), (2, 114)):
        luma += np.multiply(values[..., channel], weight, dtype=np.int32)
    return luma.astype(np.float64)


def _brightened(thumbs: Images, gain: float) -> Images:
    """Return pictures (…, S, S, 3) uint8 with their values times a factor, rounded and cut off at 255."""
    import cv2  # late: reading metrics or packs does not need it; NumPy looks up at a quarter of the speed

    table = np.minimum(np.rint(np.arange(256) * gain), 255).astype(np.uint8)
    return np.asarray(cv2.LUT(thumbs.reshape(-1, thumbs.shape[-2], 3), table), dtype=np.uint8).reshape(thumbs.shape)


def low_frequencies(luma: Floats, view: View = CENTRE) -> Floats:
    """Return the DCT coefficients (n, 7, 7) of the window of a view, from luma (n, 32, 32); exact whole numbers."""
    return np.asarray(_cosines(view.side, view.down) @ luma @ _cosines(view.side, view.right).T)


def frequencies_of_views(luma: Floats, views: tuple[View, ...]) -> list[Floats]:
    """Return the coefficients (n, 7, 7) of windows of luma (n, 32, 32), equal to those of `low_frequencies`."""
    # The windows of one side have their rows and columns in common: many small products take longer.
    axes = sorted({(view.side, offset) for view in views for offset in (view.down, view.right)})
    cosines = np.concatenate([_cosines(*axis) for axis in axes])
    along_rows = (luma.reshape(-1, THUMB) @ cosines.T).reshape(*luma.shape[:2], len(cosines))
    found: dict[View, Floats] = {}
    for side in {side for side, _ in axes}:
        offsets = [offset for one, offset in axes if one == side]
        begin = axes.index((side, offsets[0])) * FREQUENCIES
        windows = slice(begin, begin + len(offsets) * FREQUENCIES)
        product = cosines[windows] @ along_rows[..., windows]
        place = {at: slice(n * FREQUENCIES, (n + 1) * FREQUENCIES) for n, at in enumerate(offsets)}
        found |= {view: product[:, place[view.down], place[view.right]] for view in views if view.side == side}
    return [found[view] for view in views]


def _frequencies_of_thumbs(thumbs: Images, views: tuple[View, ...]) -> list[Floats]:
    """Return the coefficients (n, 7, 7) of each view of RGB thumbs."""
    found: dict[View, Floats] = {}
    for gain in {view.gain for view in views}:
        some = tuple(view for view in views if view.gain == gain)
        found |= zip(some, frequencies_of_views(luma_thousandths(thumbs, gain), some), strict=True)
    return [found[view] for view in views]


@cache
def _cosines(side: float, offset: float) -> Floats:
    """Return the cosines (7, 32) of a window along one axis, as whole numbers: the integral over each pixel."""
    if offset < 0:
        return np.ascontiguousarray(_signs()[:, None] * _cosines(side, -offset)[:, ::-1])
    begin = THUMB * ((1 - side) / 2 + offset)
    edges = np.clip((np.arange(THUMB + 1) - begin) / (THUMB * side), 0, 1)
    waves = np.pi * np.arange(1, FREQUENCIES)[:, None]
    integrals = np.concatenate([edges[None] / np.sqrt(2), np.sin(waves * edges) / waves])
    rows = np.diff(integrals, axis=1) * THUMB
    if not offset:
        rows = (rows + _signs()[:, None] * rows[:, ::-1]) / 2
    return np.asarray(np.rint(rows * _SCALE))


def _signs() -> Floats:
    return np.where(np.arange(FREQUENCIES) % 2, -1.0, 1.0)


_EVEN, _ODD = range(0, FREQUENCIES, 2), range(1, FREQUENCIES, 2)

_BOTH_EVEN = [(u, v) for u in _EVEN for v in _EVEN if u <= v and 0 < u + v <= 8]

_BOTH_ODD = [(u, v) for u in _ODD for v in _ODD if u <= v and u + v <= 8]

_MIXED = sorted([(u, v) for u in _EVEN for v in _ODD if u + v <= 7], key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, uv))


def symmetric_features(coefficients: Floats) -> Floats:
    """Return (n, D) features that are equal for turned and mirrored images, from coefficients (n, 7, 7)."""
    c = _normalised(coefficients)
    # Sums of even frequencies never change. Their differences change sign in a transposition; sums of odd frequencies
    # when mirrored; differences of odd ones in both. Of the mixed ones, x and y change their signs independently, and
    # swap in a transposition.
    sums, differences = _sums(c, _BOTH_EVEN), _differences(c, _BOTH_EVEN)
    odd_sums, odd_differences = _sums(c, _BOTH_ODD), _differences(c, _BOTH_ODD)
    x, y = c[*_axes(_MIXED)], c[*_axes(_MIXED)[::-1]]
    i, j = _neighbours(len(_MIXED), 4)
    pairs = [_products(differences), _products(odd_sums), _products(odd_differences), x[i] * x[j] + y[i] * y[j]]
    i, j = _neighbours(4, 4)
    triples = [odd_sums[0] * (x[i] * y[j] + y[i] * x[j]), differences[0] * (x[i] * x[j] - y[i] * y[j])]
    # Roots bring all to the scale of a coefficient.
    products = np.concatenate(pairs)
    roots = np.copysign(np.sqrt(np.abs(products)), products)
    return np.concatenate([sums, roots, np.cbrt(np.concatenate(triples))]).T


def _axes(places: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [u for u, _ in places], [v for _, v in places]


def _sums(c: Floats, places: list[tuple[int, int]]) -> Floats:
    u, v = _axes(places)
    return np.asarray(c[u, v] + c[v, u])


def _differences(c: Floats, places: list[tuple[int, int]]) -> Floats:
    u, v = _axes([(u, v) for u, v in places if u < v])
    return np.asarray(c[u, v] - c[v, u])


def _normalised(coefficients: Floats) -> Floats:
    """Return coefficients (7, 7, n) without the mean, divided by their norm; smaller where an image is almost flat."""
    # The images last: what is computed of a coefficient lies side by side then.
    c = np.ascontiguousarray(np.moveaxis(coefficients, 0, -1)) / (1000.0 * _SCALE**2 * THUMB**2)
    c[0, 0] = 0
    # Summed in pairs, so that swapped axes give the same sum to the last bit.
    squares = c**2
    pairs = squares + squares.swapaxes(0, 1)
    norm = np.sqrt(sum(pairs[u, v] / (2 if u == v else 1) for u in range(FREQUENCIES) for v in range(u + 1)))
    return np.asarray(c / (norm + _FLAT / 2))


@cache
def _neighbours(count: int, reach: int) -> tuple[list[int], list[int]]:
    """Return all pairs of places i <= j < `count` that are less than `reach` apart."""
    return _axes([(i, j) for i in range(count) for j in range(i, min(i + reach, count))])


def _products(values: Floats) -> Floats:
    i, j = _neighbours(len(values), 3)
    return np.asarray(values[i] * values[j])


@dataclass(frozen=True)
class PictureHash:
    """The bits of images: which side of a threshold their features lie on, in directions learned from the images."""

    mean: Floats
    """(D,)"""
    directions: Floats
    """(D, BITS), the most telling first."""
    thresholds: Floats
    """(BITS,)"""
    weights: Floats
    """(BITS,) how much a bit tells: the variance between images over that between the windows of an image."""

    @classmethod
    def learn(cls, thumbs: PictureRows) -> PictureHash:
        """Learn the directions from RGB thumbs (n, 32, 32, 3), n >= 2. Their order should not depend on chance."""
        rows = np.unique(np.linspace(0, len(thumbs) - 1, min(len(thumbs), _LEARNED)).astype(np.int64))
        luma = luma_thousandths(thumbs[rows])
        features = symmetric_features(low_frequencies(luma))
        varied = [symmetric_features(low_frequencies(luma, view)) - features for view in _VARIED]
        within = sum(change.T @ change for change in varied) / (len(varied) * len(features))
        mean = features.mean(axis=0)
        between = (features - mean).T @ (features - mean) / len(features)
        ridge = _RIDGE * np.eye(len(mean))
        from scipy.linalg import eigh  # late: reading metrics or packs does not need it

        ratios, vectors = eigh(between + ridge, within + ridge)
        best = np.argsort(-ratios, kind="stable")[:BITS]
        directions = vectors[:, best]
        thresholds = np.median(_on_grid((features - mean) @ directions), axis=0)
        # A direction that tells nothing, as most do where there are few images, gets a bit that never differs.
        thresholds[ratios[best] < _TELLING] = np.inf
        return cls(mean, directions, thresholds, ratios[best])

    def describe(
        self, thumbs: PictureRows, views: tuple[View, ...] = VIEWS, progress: Progress | None = None
    ) -> Descriptions:
        """Return the bits and values of views of RGB thumbs (n, 32, 32, 3)."""
        keys = np.empty((len(views), len(thumbs)), dtype=np.uint64)
        values = np.empty((len(views), len(thumbs), VALUES), dtype=np.float16)
        for begin in range(0, len(thumbs), _CHUNK):
            some = slice(begin, begin + _CHUNK)
            for number, coefficients in enumerate(_frequencies_of_thumbs(thumbs[some], views)):
                projected = _on_grid((symmetric_features(coefficients) - self.mean) @ self.directions)
                keys[number, some] = _keys(projected > self.thresholds)
                values[number, some] = projected[:, :VALUES] / _GRID
            if progress:
                progress(min(begin + _CHUNK, len(thumbs)), len(thumbs))
        return Descriptions(keys, values)


@dataclass(frozen=True)
class Descriptions:
    """The hashes of n images, under each of some views."""

    keys: Keys
    """(views, n), the BITS bits of each, the first bit highest; the other bits are 0."""
    values: npt.NDArray[np.float16]
    """(views, n, VALUES) positions along the first directions, in standard deviations within an image."""


def _keys(bits: Bits) -> Keys:
    """Return bits (n, BITS) as numbers (n,)."""
    packed = np.zeros((len(bits), 8), dtype=np.uint8)
    packed[:, : BITS // 8] = np.packbits(bits, axis=1)
    return packed.view(">u8")[:, 0].astype(np.uint64)


def _on_grid(values: Floats) -> Floats:
    """Round values, so that the last bits of a matrix product, which depend on the order of images, do not count."""
    return np.asarray(np.rint(values * _GRID))
