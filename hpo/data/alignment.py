"""The alignment of two pictures that may be copies, and how alike they are then, from thumbs of 32 x 32 pixels.

The orientation is the symmetry under which the low DCT coefficients agree best. The rest (a shift, and a scale of each
axis, for crops) is found by least squares on the pixels, coarse to fine, together with a factor and an offset of the
brightness: the inverse compositional form of Lucas and Kanade's method (Baker and Matthews 2004, "Lucas-Kanade 20 years
on"), where the Jacobian of the second picture is inverted once. What is compared then is only what both show.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Labels
from hpo.data.picture_hash import CENTRE, VIEWS, PictureRows, low_frequencies, luma_thousandths
from hpo.data.symmetries import SYMMETRIES, turned, turned_coefficients, turned_offset

Singles = npt.NDArray[np.float32]

_SCALES, _SHIFT = (0.87, 1.15), 0.12
"""The scales and the largest shift, as a share of the image, that an alignment may reach."""

_COARSE_STEPS, _FINE_STEPS = 6, 3

_LARGEST_STEP = 0.06

_RIDGE = 1e-3

_NOT_TURNED = 1e-3

_EDGE = 0.045
"""The share of an image at each edge that is not compared: a shifted copy may be filled up there."""

_CLIPPED = 250
"""Values from here on may be cut off; a pixel that is so in one picture only is not compared."""

_PAIRS = 128
"""Pairs that are aligned at once: few, so that NumPy takes no new pages of memory for each array."""

LEAST_STRUCTURE = 0.91
"""The structure of two copies is at least this; where it is less, details are not compared."""

_MOST_MISFIT = 0.3
"""The misfit of pictures of 16 x 16 pixels, aligned, above which a pair is not looked at more closely: twice what any
of 6,000 planted copies has.
"""


@dataclass(frozen=True)
class Resemblance:
    """How alike the pictures of m pairs are after alignment.

    The columns are 0 where a pair was told apart before they were computed.
    """

    symmetry: Labels
    """(m,) int64: the second is the first, turned so (`symmetries`)."""
    structure: Singles
    """(m,) correlation of the colours in [-1, 1], each channel about its mean."""
    detail: Singles
    """(m,) correlation of the high frequencies in [-1, 1]."""
    contrast: Singles
    """(m,) the smaller standard deviation of the high frequencies of the two, in grey levels."""
    colour: Singles
    """(m,) the largest difference of a channel's mean after the brightness is made equal, in grey levels."""
    cover: Singles
    """(m,) the share of the picture that was compared."""
    place: npt.NDArray[np.float64]
    """(m, 4) where a pixel of the second lies in the turned first: scale and shift of its row, and of its column."""

    @classmethod
    def none(cls, symmetry: Labels, place: npt.NDArray[np.float64]) -> Resemblance:
        """Return pairs of which only symmetry and place are known yet."""
        structure, detail, contrast, colour, cover = np.zeros((5, len(symmetry)), dtype=np.float32)
        return cls(symmetry, structure, detail, contrast, colour, cover, place)

    def at(self, rows: Labels) -> Resemblance:
        """Return the pairs at some places."""
        return Resemblance(**{name: column[rows] for name, column in vars(self).items()})


def resemblance(thumbs: PictureRows, first: Labels, second: Labels, view: Labels) -> Resemblance:
    """Align pairs (m,) of RGB thumbs (n, 32, 32, 3) and compare them.

    `view` are positions in `picture_hash.VIEWS`: the view of the first that resembles the centre of the second, where
    the search begins.
    """
    parts = [
        _resemblance(thumbs[first[rows]], thumbs[second[rows]], view[rows])
        for rows in np.array_split(np.arange(len(first)), max(1, -(-len(first) // _PAIRS)))
    ]
    return Resemblance(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def fine_detail(greys: PictureRows, first: Labels, second: Labels, found: Resemblance) -> tuple[Singles, Singles]:
    """Compare aligned pairs (m,) once more, by luma (n, 64, 64) uint8.

    Return the correlation of details of 2 to 6 pixels (m,) and the smaller of their standard deviations, in grey
    levels. Single pixels do not count: JPEG changes them.
    """
    parts = [
        _fine_detail(greys[first[rows]], greys[second[rows]], found.symmetry[rows], found.place[rows])
        for rows in np.array_split(np.arange(len(first)), max(1, -(-len(first) // _PAIRS)))
    ]
    detail, deviation = (np.concatenate(column) for column in zip(*parts, strict=True))
    return detail, deviation


def _fine_detail(one: Images, two: Images, symmetry: Labels, place: npt.NDArray[np.float64]) -> tuple[Singles, Singles]:
    first = _turned_pictures(one.astype(np.float32), symmetry)[:, None]
    second = two.astype(np.float32)[:, None]
    warped, weight = _overlaid(first, second, place)
    detail, deviations, _ = _correlation(_middle_detail(warped), _middle_detail(second), weight)
    return detail, np.minimum(*deviations)


def _turned_pictures(pictures: Singles, symmetry: Labels) -> Singles:
    """Return pictures (m, …, S, S), each turned by its own symmetry."""
    for number in range(1, SYMMETRIES):
        rows = symmetry == number
        pictures[rows] = turned(pictures[rows], number)
    return pictures


def best_view(thumbs: PictureRows, first: Labels, second: Labels) -> Labels:
    """Return for pairs (m,) the view of the first that resembles the centre of the second most."""
    parts = [
        _best_view(thumbs[first[rows]], thumbs[second[rows]])
        for rows in np.array_split(np.arange(len(first)), max(1, -(-len(first) // _PAIRS)))
    ]
    return np.concatenate(parts)


def _best_view(one: Images, two: Images) -> Labels:
    best, found = np.full(len(one), -np.inf), np.zeros(len(one), dtype=np.int64)
    luma, target = luma_thousandths(one), low_frequencies(luma_thousandths(two))
    for number, view in enumerate(VIEWS):
        if view.gain == 1:
            _, agreement = _orientation(low_frequencies(luma, view), target)
            found[agreement > best] = number
            best = np.maximum(best, agreement)
    return found


def _resemblance(one: Images, two: Images, view: Labels) -> Resemblance:
    """Compare pairs of RGB thumbs (m, 32, 32, 3)."""
    seen = _seen_through(luma_thousandths(one), view)
    symmetry, _ = _orientation(seen, low_frequencies(luma_thousandths(two)))
    first, second = (np.ascontiguousarray(np.moveaxis(pair, -1, 1), dtype=np.float32) for pair in (one, two))
    _turned_pictures(first, symmetry)
    grey, target = _luma(first), _luma(second)
    place, misfit = _align_coarsely(_halved(grey), _halved(target), _begins(view, symmetry))
    rows = np.flatnonzero(misfit <= _MOST_MISFIT)
    place[rows] = _align_finely(grey[rows], target[rows], place[rows])
    return _compare(first[rows], second[rows], rows, Resemblance.none(symmetry, place))


def _seen_through(luma: npt.NDArray[np.float64], view: Labels) -> npt.NDArray[np.float64]:
    """Return the coefficients of each picture's own view."""
    seen = low_frequencies(luma)
    for number in np.unique(view):
        rows = view == number
        seen[rows] = low_frequencies(luma[rows], VIEWS[number])
    return seen


def _orientation(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> tuple[Labels, npt.NDArray[np.float64]]:
    """Return the symmetry (m,) under which coefficients (m, K, K) agree best, and the correlation."""
    one, two = one.copy(), two.copy()
    one[:, 0, 0] = two[:, 0, 0] = 0
    norm = np.sqrt((one**2).sum(axis=(1, 2)) * (two**2).sum(axis=(1, 2))) + 1e-9
    # A picture that looks the same when turned counts as not turned.
    agreement = np.stack([(turned_coefficients(one, s) * two).sum(axis=(1, 2)) / norm for s in range(SYMMETRIES)])
    agreement[0] += _NOT_TURNED
    symmetry = agreement.argmax(axis=0)
    return symmetry, agreement[symmetry, np.arange(len(one))]


def _begins(view: Labels, symmetry: Labels) -> npt.NDArray[np.float64]:
    """Return (m, 4) scale and shift of rows and of columns that bring the centre of the second onto its view."""
    return np.stack([_begin(*pair) for pair in zip(view.tolist(), symmetry.tolist(), strict=True)] or [np.zeros(4)])


@cache
def _begin(view: int, symmetry: int) -> npt.NDArray[np.float64]:
    """Return scale and shift of rows and of columns that bring the centre of the second onto a view of the first."""
    seen = VIEWS[view]
    down, right = turned_offset(seen.down, seen.right, symmetry)
    scale = seen.side / CENTRE.side
    return np.array([scale, down, scale, right])


_SAME = np.array([1.0, 0.0, 1.0, 0.0])
"""The place of a picture in itself."""


def _align_coarsely(
    one: Singles, two: Singles, begin: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the places (m, 4) in the first picture of the pixels of the second, and the misfits (m,) there.

    The search begins at `begin` and at no change at all, whichever fits better.
    """
    template = _Template(two)
    place, misfit = template.better(one, begin, np.tile(_SAME, (len(one), 1)))
    return template.better(one, template.fit(one, place, _COARSE_STEPS), place, misfit)


def _align_finely(one: Singles, two: Singles, place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return better places (m, 4), or those of no change at all where these fit better."""
    template = _Template(two)
    same = np.tile(_SAME, (len(one), 1))
    return template.better(one, template.fit(one, place, _FINE_STEPS), same)[0]


def _luma(pictures: Singles) -> Singles:
    """Return the luma (m, S, S) of colours (m, 3, S, S)."""
    return np.asarray(0.299 * pictures[:, 0] + 0.587 * pictures[:, 1] + 0.114 * pictures[:, 2])


def _halved(pictures: Singles) -> Singles:
    rows = pictures[:, ::2] + pictures[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)


class _Template:
    """The centres of pictures (m, S, S), to which others are fitted."""

    def __init__(self, pictures: Singles) -> None:
        side = pictures.shape[1]
        margin = side // 8
        inner = slice(margin, side - margin)
        self._grid = ((np.arange(side) + 0.5) / side - 0.5)[inner]
        grid = self._grid.astype(np.float32)
        target = pictures[:, inner, inner]
        columns = np.empty((len(pictures), 6, len(grid), len(grid)), dtype=np.float32)
        after, before = slice(margin + 1, side - margin + 1), slice(margin - 1, side - margin - 1)
        columns[:, 1] = (pictures[:, after, inner] - pictures[:, before, inner]) * (side / 2)
        columns[:, 3] = (pictures[:, inner, after] - pictures[:, inner, before]) * (side / 2)
        columns[:, 0], columns[:, 2] = columns[:, 1] * grid[:, None], columns[:, 3] * grid
        columns[:, 4], columns[:, 5] = target, 1
        design = columns.reshape(len(pictures), 6, len(grid) ** 2)
        normal = (design @ design.swapaxes(1, 2)).astype(np.float64)
        weights = np.array([1, 1, 1, 1, 0, 0]) * np.einsum("mii->mi", normal)[:, :4].mean(axis=1)[:, None]
        normal += _RIDGE * np.einsum("mi,ij->mij", weights + 1, np.eye(6))
        self._solution = np.linalg.inv(normal).astype(np.float32) @ design
        self._base = target - target.mean(axis=(1, 2), keepdims=True)
        self._norm = np.square(self._base).sum(axis=(1, 2))

    def fit(self, pictures: Singles, place: npt.NDArray[np.float64], steps: int) -> npt.NDArray[np.float64]:
        """Return improved places of these pixels in other pictures."""
        place = place.copy()
        for _ in range(steps):
            warped = self._warped(pictures, place)
            solved = (self._solution @ warped.reshape(len(pictures), len(self._grid) ** 2, 1))[:, :, 0].astype(
                np.float64
            )
            # warped = gain * target + offset + gain * (the gradients times the change): the change is undone.
            gain = np.where(np.abs(solved[:, 4]) < 0.2, 0.2, solved[:, 4])
            change = np.clip(solved[:, :4] / gain[:, None], -_LARGEST_STEP, _LARGEST_STEP)
            for scale, shift in ((0, 1), (2, 3)):
                place[:, shift] = np.clip(place[:, shift] - place[:, scale] * change[:, shift], -_SHIFT, _SHIFT)
                place[:, scale] = np.clip(place[:, scale] * (1 - change[:, scale]), *_SCALES)
        return place

    def better(
        self, pictures: Singles, one: npt.NDArray[np.float64], two: npt.NDArray[np.float64],
        misfit: npt.NDArray[np.float64] | None = None,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:  # fmt: skip
        """Return for each picture the one of two places at which it fits better, and its misfit there.

        `misfit` is that at the second, where it is known.
        """
        first = self.misfit(pictures, one)
        second = self.misfit(pictures, two) if misfit is None else misfit
        return np.where((first <= second)[:, None], one, two), np.minimum(first, second)

    def misfit(self, pictures: Singles, place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return 1 less the correlation with other pictures at these places."""
        warped = self._warped(pictures, place)
        warped = warped - warped.mean(axis=(1, 2), keepdims=True)
        norm = np.sqrt((warped**2).sum(axis=(1, 2)) * self._norm)
        return np.asarray(1 - (warped * self._base).sum(axis=(1, 2)) / (norm + 1e-6), dtype=np.float64)

    def _warped(self, pictures: Singles, place: npt.NDArray[np.float64]) -> Singles:
        rows, columns = _interpolation(_along_axes(self._grid, place), pictures.shape[1])
        return np.asarray(rows @ pictures @ columns.swapaxes(1, 2))


def _along_axes(grid: npt.NDArray[np.float64], place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return where the points of a grid (g,) lie in the first pictures, along both axes: (2, m, g).

    They are measured from the centre of the image, as shares of it.
    """
    return np.stack([place[:, axis, None] * grid + place[:, axis + 1, None] for axis in (0, 2)])


def _interpolation(place: npt.NDArray[np.float64], side: int) -> Singles:
    """Return the weights (2, m, g, S) of cubic interpolation (Keys 1981) at some places (2, m, g) of S pixels."""
    pixel = np.clip((place + 0.5) * side - 0.5, 0, side - 1).astype(np.float32)
    before = pixel.astype(np.int64)
    part = pixel - before
    rest = 1 - part
    # The four nearest pixels; one pixel of margin before the first and two after the last, which are cut off again.
    wide = np.zeros((*pixel.shape, side + 3), dtype=np.float32)
    at = before + (side + 3) * np.arange(pixel.size).reshape(pixel.shape)
    flat = wide.reshape(-1)
    flat[at] = -0.5 * part * rest * rest
    flat[at + 1] = (1.5 * part - 2.5) * part * part + 1
    flat[at + 2] = (1.5 * rest - 2.5) * rest * rest + 1
    flat[at + 3] = -0.5 * rest * part * part
    weights = wide[..., 1:-2]
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _compare(one: Singles, two: Singles, rows: Labels, found: Resemblance) -> Resemblance:
    """Compare colours (k, 3, S, S) of the pairs `rows` (k,) at the places found, and enter the results."""
    warped, weight = _overlaid(one, two, found.place[rows])
    found.structure[rows], _, found.colour[rows] = _correlation(warped, two, weight)
    found.cover[rows] = weight.mean(axis=(1, 2, 3))
    some = np.flatnonzero(found.structure[rows] >= LEAST_STRUCTURE)
    # Of the luma alone: JPEG stores colours at half the resolution.
    fine = [_detail(_luma(pictures[some])[:, None]) for pictures in (warped, two)]
    found.detail[rows[some]], deviations, _ = _correlation(fine[0], fine[1], weight[some])
    found.contrast[rows[some]] = np.minimum(*deviations)
    return found


def _overlaid(one: Singles, two: Singles, place: npt.NDArray[np.float64]) -> tuple[Singles, Singles]:
    """Return the first pictures (m, C, S, S) laid on the second, and the weights (m, 1, S, S) of pixels to compare."""
    side = one.shape[2]
    grid = (np.arange(side) + 0.5) / side - 0.5
    along = _along_axes(grid, place)
    rows, columns = _interpolation(along, side)
    rows_inside, columns_inside = np.abs(along) <= 0.5 - _EDGE
    warped = np.asarray(rows[:, None] @ one @ columns.swapaxes(1, 2)[:, None], dtype=np.float32)
    inside = np.abs(grid) <= 0.5 - _EDGE
    both = (rows_inside & inside)[:, :, None] & (columns_inside & inside)[:, None, :]
    clipped = (warped >= _CLIPPED).any(axis=1) != (two >= _CLIPPED).any(axis=1)
    return warped, (both & ~clipped)[:, None].astype(np.float32)


def _correlation(one: Singles, two: Singles, weight: Singles) -> tuple[Singles, tuple[Singles, Singles], Singles]:
    """Return correlation, both standard deviations, and the largest difference of the means of a channel.

    The pictures are (m, C, S, S), the weights (m, 1, S, S). The brightness of the first is made that of the second by
    one factor and one offset for all channels before the means are compared.
    """
    count = weight.sum(axis=(2, 3)) + 1e-6
    means = [(pictures * weight).sum(axis=(2, 3)) / count for pictures in (one, two)]
    about = [(pictures - mean[:, :, None, None]) * weight for pictures, mean in zip((one, two), means, strict=True)]
    product = (about[0] * about[1]).sum(axis=(1, 2, 3))
    squares = [(pictures**2).sum(axis=(1, 2, 3)) for pictures in about]
    deviations = [np.sqrt(square / (one.shape[1] * count[:, 0])) for square in squares]
    correlation = product / (np.sqrt(squares[0] * squares[1]) + 1e-3)
    gain = np.clip(product / (squares[0] + 1e-3), 0.5, 2)
    difference = means[1] - gain[:, None] * means[0]
    difference -= difference.mean(axis=1, keepdims=True)
    return correlation, (deviations[0], deviations[1]), np.abs(difference).max(axis=1)


def _detail(pictures: Singles) -> Singles:
    """Return pictures (m, C, S, S) less themselves after a binomial filter of 5 x 5."""
    return np.asarray(pictures - _blurred(_blurred(pictures)))


def _middle_detail(pictures: Singles) -> Singles:
    """Return pictures (m, C, S, S) after a binomial filter of 3 x 3, less themselves after one of 9 x 9."""
    once = _blurred(pictures)
    return np.asarray(once - _blurred(_blurred(_blurred(once))))


def _blurred(pictures: Singles) -> Singles:
    """Return pictures (m, C, S, S) after a binomial filter of 3 x 3."""
    padded = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    return np.asarray((rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16)
