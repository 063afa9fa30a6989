"""The alignment of two pictures that may be copies, and how alike they are then, from thumbs of 32 x 32 pixels.

The orientation is the symmetry under which the low DCT coefficients agree best. The rest (a shift, and a scale of each
axis, for crops) is found by least squares on the pixels, coarse to fine, together with a factor and an offset of the
brightness: the inverse compositional form of Lucas and Kanade's method (Baker and Matthews 2004, "Lucas-Kanade 20 years
on"), where the Jacobian of the second picture is inverted once. What is compared then is only what both show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Labels
from hpo.data.picture_hash import CENTRE, VIEWS, PictureRows, View, low_frequencies, luma_thousandths
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

_PAIRS = 512
"""Pairs that are aligned at once; bounds the memory."""


@dataclass(frozen=True)
class Resemblance:
    """How alike the pictures of m pairs are after alignment."""

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

    def at(self, rows: Labels) -> Resemblance:
        """Return the pairs at some places."""
        return Resemblance(**{name: column[rows] for name, column in vars(self).items()})


def resemblance(thumbs: PictureRows, first: Labels, second: Labels, view: Labels) -> Resemblance:
    """Align pairs (m,) of RGB thumbs (n, 32, 32, 3) and compare them.

    `view` are positions in `picture_hash.VIEWS`: the view of the first that resembles the centre of the second, where
    the search begins.
    """
    if not len(first):
        none = np.zeros(0, dtype=np.float32)
        return Resemblance(first.copy(), none, none, none, none, none, np.zeros((0, 4)))
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
    luma = [luma_thousandths(one), luma_thousandths(two)]
    seen = _seen_through(luma[0], view)
    symmetry, _ = _orientation(seen, low_frequencies(luma[1]))
    colours = [np.ascontiguousarray(np.moveaxis(pair, -1, 1), dtype=np.float32) for pair in (one, two)]
    _turned_pictures(colours[0], symmetry)
    grey = [_luma(pictures) for pictures in colours]
    begin = np.array([_begin(VIEWS[v], s) for v, s in zip(view.tolist(), symmetry.tolist(), strict=True)]).reshape(
        -1, 4
    )
    place = _align(grey[0], grey[1], begin)
    return _compare(colours[0], colours[1], place, symmetry)


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


def _begin(view: View, symmetry: int) -> tuple[float, float, float, float]:
    """Return scale and shift of rows and of columns that bring the centre of the second onto a view of the first."""
    down, right = turned_offset(view.down, view.right, symmetry)
    scale = view.side / CENTRE.side
    return scale, down, scale, right


def _align(one: Singles, two: Singles, begin: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the places (m, 4) in the first picture of the pixels of the second: scale and shift of rows and columns.

    The search begins at `begin` and at no change at all, whichever fits better.
    """
    small = [_halved(one), _halved(two)]
    same = np.tile([1.0, 0.0, 1.0, 0.0], (len(one), 1))
    coarse = _Template(small[1])
    place = _better(coarse, small[0], begin, same)
    place = _better(coarse, small[0], coarse.fit(small[0], place, _COARSE_STEPS), place)
    fine = _Template(two)
    return _better(fine, one, fine.fit(one, place, _FINE_STEPS), same)


def _better(
    template: _Template, pictures: Singles, one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return for each picture the one of two places at which it fits better."""
    better = template.misfit(pictures, one) <= template.misfit(pictures, two)
    return np.where(better[:, None], one, two)


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
        self._inner = slice(margin, side - margin)
        self._grid = ((np.arange(side) + 0.5) / side - 0.5)[self._inner]
        grid = self._grid.astype(np.float32)
        down, right = (
            np.asarray(np.gradient(pictures, 1 / side, axis=axis))[:, self._inner, self._inner] for axis in (1, 2)
        )
        self._target = pictures[:, self._inner, self._inner]
        columns = [down * grid[:, None], down, right * grid, right, self._target, np.ones_like(self._target)]
        design = np.stack(columns, axis=1).reshape(len(pictures), 6, -1)
        normal = (design @ design.swapaxes(1, 2)).astype(np.float64)
        weights = np.array([1, 1, 1, 1, 0, 0]) * np.einsum("mii->mi", normal)[:, :4].mean(axis=1)[:, None]
        normal += _RIDGE * np.einsum("mi,ij->mij", weights + 1, np.eye(6))
        self._solution = np.linalg.inv(normal).astype(np.float32) @ design
        self._base = self._target - self._target.mean(axis=(1, 2), keepdims=True)

    def fit(self, pictures: Singles, place: npt.NDArray[np.float64], steps: int) -> npt.NDArray[np.float64]:
        """Return improved places of these pixels in other pictures."""
        place = place.copy()
        for _ in range(steps):
            warped = self._warped(pictures, place)
            solved = (self._solution @ warped.reshape(len(pictures), -1, 1))[:, :, 0].astype(np.float64)
            # warped = gain * target + offset + gain * (the gradients times the change): the change is undone.
            gain = np.where(np.abs(solved[:, 4]) < 0.2, 0.2, solved[:, 4])
            change = np.clip(solved[:, :4] / gain[:, None], -_LARGEST_STEP, _LARGEST_STEP)
            for scale, shift in ((0, 1), (2, 3)):
                place[:, shift] = np.clip(place[:, shift] - place[:, scale] * change[:, shift], -_SHIFT, _SHIFT)
                place[:, scale] = np.clip(place[:, scale] * (1 - change[:, scale]), *_SCALES)
        return place

    def misfit(self, pictures: Singles, place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return 1 less the correlation with other pictures at these places."""
        warped = self._warped(pictures, place)
        warped = warped - warped.mean(axis=(1, 2), keepdims=True)
        norm = np.sqrt((warped**2).sum(axis=(1, 2)) * (self._base**2).sum(axis=(1, 2)))
        return np.asarray(1 - (warped * self._base).sum(axis=(1, 2)) / (norm + 1e-6), dtype=np.float64)

    def _warped(self, pictures: Singles, place: npt.NDArray[np.float64]) -> Singles:
        side = pictures.shape[1]
        rows, _ = _interpolation(self._grid, place[:, 0], place[:, 1], side)
        columns, _ = _interpolation(self._grid, place[:, 2], place[:, 3], side)
        return np.asarray(rows @ pictures @ columns.swapaxes(1, 2))


def _interpolation(
    grid: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64], side: int
) -> tuple[Singles, npt.NDArray[np.bool_]]:
    """Return the weights (m, g, S) of cubic interpolation (Keys 1981) at scale * grid + shift, and which are inside.

    Places are measured from the centre of the image, as shares of it.
    """
    place = scale[:, None] * grid + shift[:, None]
    pixel = np.clip((place + 0.5) * side - 0.5, 0, side - 1).astype(np.float32)
    before = pixel.astype(np.int64)
    part = pixel - before
    rest = 1 - part
    # The four nearest pixels; one pixel of margin before the first and two after the last, which are cut off again.
    taps = [
        (-0.5 * part * rest * rest),
        (1.5 * part - 2.5) * part * part + 1,
        (1.5 * rest - 2.5) * rest * rest + 1,
        (-0.5 * rest * part * part),
    ]
    wide = np.zeros((*pixel.shape, side + 3), dtype=np.float32)
    np.put_along_axis(wide, before[:, :, None] + np.arange(4), np.stack(taps, axis=2), axis=2)
    weights = wide[:, :, 1:-2]
    return weights / weights.sum(axis=2, keepdims=True), np.abs(place) <= 0.5 - _EDGE


def _compare(one: Singles, two: Singles, place: npt.NDArray[np.float64], symmetry: Labels) -> Resemblance:
    """Compare colours (m, 3, S, S) at the places found."""
    warped, weight = _overlaid(one, two, place)
    structure, _, colour = _correlation(warped, two, weight)
    # Of the luma alone: JPEG stores colours at half the resolution.
    fine = [_detail(_luma(pictures)[:, None]) for pictures in (warped, two)]
    detail, deviations, _ = _correlation(fine[0], fine[1], weight)
    cover = weight.mean(axis=(1, 2, 3))
    return Resemblance(symmetry, structure, detail, np.minimum(*deviations), colour, cover, place)


def _overlaid(one: Singles, two: Singles, place: npt.NDArray[np.float64]) -> tuple[Singles, Singles]:
    """Return the first pictures (m, C, S, S) laid on the second, and the weights (m, 1, S, S) of pixels to compare."""
    side = one.shape[2]
    grid = (np.arange(side) + 0.5) / side - 0.5
    rows, rows_inside = _interpolation(grid, place[:, 0], place[:, 1], side)
    columns, columns_inside = _interpolation(grid, place[:, 2], place[:, 3], side)
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
