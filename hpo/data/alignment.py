"""The alignment of two pictures that may be copies, and how alike they are then, from thumbs of 32 x 32 pixels.

The orientation is the symmetry under which the low DCT coefficients agree best. The rest (a shift, and a scale of each
axis, for crops) is found by least squares on the pixels, coarse to fine, together with a factor and an offset of the
brightness: the inverse compositional form of Lucas and Kanade's method (Baker and Matthews 2004, "Lucas-Kanade 20 years
on"), where the Jacobian of the second picture is inverted once. What is compared then is only what both show.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Labels
from hpo.data.orientation import likely_orientations, seen_coefficients, turned_pictures
from hpo.data.picture_hash import Floats, PictureRows, low_frequencies, luma_thousandths

Singles = npt.NDArray[np.float32]

_SCALES, _SHIFT = (0.87, 1.15), 0.12
"""The scales and the largest shift, as a share of the image, that an alignment may reach."""

_COARSE_STEPS, _FINE_STEPS = 4, 3

_LARGEST_STEP = 0.06

_RIDGE = 1e-3

_EDGE = 0.045
"""The share of an image at each edge that is not compared: a shifted copy may be filled up there."""

_CLIPPED = 250
"""Values from here on may be cut off; a pixel that is so in one picture only is not compared."""

_PAIRS = 512
"""Pairs that are aligned at once: so many that the price of a NumPy call does not count, and their memory does not."""

LEAST_STRUCTURE = 0.91
"""The structure of two copies is at least this; where it is less, details are not compared."""

LEAST_AGREEMENT = 0.935
"""The correlation of the low DCT coefficients below which a pair is not looked at more closely."""

_NEARLY = 0.06
"""The second best orientation is tried if its agreement is less by no more than this."""

_MOST_MISFIT, _MOST_MISFIT_ALIGNED, _MOST_MISFIT_IN_FULL = 0.25, 0.15, 0.1
"""The largest misfit of copies of 16 x 16 pixels, of these when aligned, and of 32 x 32 aligned pixels."""

_LEAST_DETAIL = 0.45
"""The least correlation of the details of copies of 32 x 32 pixels that are aligned as well as 16 x 16 allow."""

_FAINT = 4.0
"""Standard deviation of details, in grey levels, at which they count half."""


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

    `view` are positions in `picture_hash.VIEWS`: the view of the first that resembles the centre of the second. Of it
    only the brightness counts: of the windows the one that agrees most is taken.
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
    first = turned_pictures(one.astype(np.float32), symmetry)[:, None]
    second = two.astype(np.float32)[:, None]
    warped, weight = _overlaid(first, second, place)
    detail, deviations, _ = _correlation(_middle_detail(warped), _middle_detail(second), weight)
    return detail, np.minimum(*deviations)


def _resemblance(one: Images, two: Images, view: Labels) -> Resemblance:
    """Compare pairs of RGB thumbs (m, 32, 32, 3): what is cheap to compute first, for all that it does not tell apart.

    Copies are far from the limits: planted ones agree to 0.95 or more, with a misfit of at most 0.05 at the end.
    """
    luma, target = luma_thousandths(one), luma_thousandths(two)
    agreement, symmetry, begin = likely_orientations(seen_coefficients(luma, one, view), low_frequencies(target))
    found = Resemblance.none(symmetry[:, 0].copy(), begin[:, 0].copy())
    rows = np.flatnonzero(agreement[:, 0] >= LEAST_AGREEMENT)
    first, second = (np.asarray(some[rows] / 1000, dtype=np.float32) for some in (luma, target))
    template = _Template(_halved(second))
    turn, place, misfit = _better_orientation(_halved(first), template, agreement[rows], symmetry[rows], begin[rows])
    found.symmetry[rows] = turn
    near = np.flatnonzero(misfit <= _MOST_MISFIT)
    rows, place, misfit, turn = rows[near], place[near], misfit[near], turn[near]
    first, second, template = turned_pictures(first[near], turn), second[near], template.at(near)
    place, misfit = _improved(template, _halved(first), place, misfit, _COARSE_STEPS)
    near = np.flatnonzero(misfit <= _MOST_MISFIT_ALIGNED)
    near = near[_details_may_agree(first[near], second[near], place[near])]
    rows, place, first, second = rows[near], place[near], first[near], second[near]
    found.place[rows] = place
    template = _Template(second)
    place, misfit = _improved(template, first, place, template.misfit(first, place), _FINE_STEPS)
    found.place[rows] = place
    rows = rows[misfit <= _MOST_MISFIT_IN_FULL]
    colours = [np.ascontiguousarray(np.moveaxis(pictures[rows], -1, 1), dtype=np.float32) for pictures in (one, two)]
    return _compare(turned_pictures(colours[0], found.symmetry[rows]), colours[1], rows, found)


def _better_orientation(
    pictures: Singles, template: _Template, agreement: Floats, symmetry: Labels, begin: Floats
) -> tuple[Labels, Floats, Floats]:
    """Return the orientation (m,) of pictures (m, S, S) in which they fit the template better, place and misfit there.

    The second best by agreement is tried where it is nearly as good: of round cells the low frequencies tell little.
    """
    turn, place = symmetry[:, 0].copy(), begin[:, 0].copy()
    turned = turned_pictures(pictures.copy(), turn)
    same = np.tile(_SAME, (len(turn), 1))
    place, misfit = template.better(turned, place, same)
    rows = np.flatnonzero(agreement[:, 1] >= agreement[:, 0] - _NEARLY)
    other = template.at(rows).misfit(turned_pictures(pictures[rows], symmetry[rows, 1]), begin[rows, 1])
    # Both say how well the pictures fit: the agreement in the best window, the misfit in pixels near it.
    wins = other - agreement[rows, 1] < misfit[rows] - agreement[rows, 0]
    rows, other = rows[wins], other[wins]
    turn[rows], place[rows], misfit[rows] = symmetry[rows, 1], begin[rows, 1], other
    return turn, place, misfit


def _details_may_agree(one: Singles, two: Singles, place: Floats) -> npt.NDArray[np.bool_]:
    """Return which pictures (m, S, S) may be copies by the correlation of their details at places found coarsely.

    Outlines and backgrounds, in which all cells are alike, do not count in it.
    """
    side = one.shape[1]
    inner = slice(side // 8, side - side // 8)
    rows, columns = _interpolation(_along_axes(((np.arange(side) + 0.5) / side - 0.5)[inner], place), side)
    warped = rows @ _quick_detail(one) @ columns.swapaxes(1, 2)
    target = _quick_detail(two)[:, inner, inner]
    about = [pictures - pictures.mean(axis=(1, 2), keepdims=True) for pictures in (warped, target)]
    squares = [np.square(pictures).mean(axis=(1, 2)) for pictures in about]
    correlation = (about[0] * about[1]).mean(axis=(1, 2)) / np.sqrt(squares[0] * squares[1] + 1e-6)
    # Faint details are those of JPEG.
    least = np.minimum(squares[0], squares[1])
    return np.asarray(correlation >= _LEAST_DETAIL * least / (least + _FAINT**2))


def _quick_detail(pictures: Singles) -> Singles:
    """Return `_detail` of pictures (m, S, S), but for the two pixels next to their edges."""
    import cv2

    if not len(pictures):
        return pictures
    below_each_other = np.ascontiguousarray(pictures).reshape(-1, pictures.shape[2])
    return (below_each_other - cv2.GaussianBlur(below_each_other, (5, 5), 0)).reshape(pictures.shape)


def _improved(
    template: _Template, pictures: Singles, place: Floats, misfit: Floats, steps: int
) -> tuple[Floats, Floats]:
    """Return places and misfits after some steps; as they were where that is no better."""
    return template.better(pictures, template.fit(pictures, place, steps), place, misfit)


_SAME = np.array([1.0, 0.0, 1.0, 0.0])
"""The place of a picture in itself."""


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

    def at(self, rows: Labels) -> _Template:
        """Return the template of some of the pictures."""
        chosen = copy(self)
        chosen._solution, chosen._base, chosen._norm = self._solution[rows], self._base[rows], self._norm[rows]
        return chosen

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
