"""The object in the centre of an image, told from its background by colour and shape.

Colours are counted in two places: about the centre, where the object is expected, and along the border, where the
background is. A pixel whose colour is far more frequent in the first belongs to the object; the colours of neighbours
that reach the border, such as other cells, do not. What is found is counted again a little wider, twice, so that a part
of the object with a paler colour is reached from its core. The parts of the object are those that overlap the centre;
holes are filled, and neighbours that touch it and reach the border are cut off at their neck.

All of it is decided on a grid of at most 49 x 49 points, so the time hardly depends on the size of the image. Only
whole numbers are added up, so the result does not depend on the order of pixels: the mask of a mirrored or turned image
is the mirrored or turned mask.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Part, Rows
from search_spaces import Background

Mask: TypeAlias = npt.NDArray[np.uint8]
"""(S, S) uint8: 1 on the object, 0 on the background."""

Bools: TypeAlias = npt.NDArray[np.bool_]

Codes: TypeAlias = npt.NDArray[np.int32]
"""(m, m) number of the colour of each point of the grid."""

GRID = 48
"""Points of the grid along a side, or one more, where the side of the image is odd."""

LEVELS, TINTS = 5, 16
"""Bins of lightness, and of each of the two colour axes of CIELAB, over the range of the image."""

NARROWEST = (64, 48)
"""Least ranges, of 256, over which lightness and tints are divided, so that noise does not fill all bins."""

CENTRE, BORDER = 0.28, 1 / 12
"""Radius of the disc and width of the border where colours are first counted, in sides of the image."""

WIDENINGS = ((3.0, 0), (3.0, 5), (2.5, 5))
"""For each count: how many times more frequent, relative to all colours there, a colour must be about the object than
in the background; and by how many points the object found before is widened."""

APART = 7
"""Points from the object found before at which the background begins; the border is background in any case."""

NECK = 0.45
"""Width of a neck, in widths of the object, below which what lies behind it is another object."""

SMALLEST, LARGEST = 0.004, 0.85
"""Least and largest share of the image that an object has."""

MOST_SHARED = 0.5
"""Largest overlap of the colour distributions of object and background: 0 for no common colour, 1 for the same."""

CORE, LEAST_OF_CORE = 0.12, 0.5
"""Radius of a disc about the centre, in sides of the image, and the least share of it that the object covers. Less is
the rim of an object whose colours the border has too, as where a second cell of the kind lies there."""

MOST_BORDER = 0.5
"""Largest share of the outermost points that an object covers; beyond, the image has no background."""


VERSION = 1
"""The version of masks. It goes up when an image may get another one."""

MOST_STORED = 256 << 20
"""Bytes that stored masks may take: 230,000 images of 96 pixels."""


class Grid(NamedTuple):
    """The grid of images of one size: positions of its points, and where its centre and border are."""

    rows: npt.NDArray[np.int64]
    """(m,) positions in the image, symmetric about its middle."""
    points: npt.NDArray[np.int64]
    """(S,) the point for each position, symmetric too."""
    core: Bools
    centre: Bools
    border: Bools
    edge: Bools
    """The outermost points."""


def without_background(images: Images) -> Images:
    """Return copies of (b, S, S, 3) uint8 images with the background in its own mean colour.

    An image in which no object can be told from the background is returned as it is.
    """
    found = images.copy()
    for image in found:
        fill_background(image, object_mask(image))
    return found


def with_background(images: Images, background: Background) -> Images:
    """Return (b, S, S, 3) uint8 images as a network sees them whose configuration has this `background`."""
    return without_background(images) if background == "mask" else images


def prepared(part: Part, background: Background) -> Part:
    """Return the part with its images as such a network sees them; their masks are stored once they are known."""
    return replace(part, prepare=StoredMasks(part.images)) if background == "mask" else part


class StoredMasks:
    """`without_background` for the rows of a packed set, several threads at once; masks are stored, a bit a pixel."""

    identity = f"background mask {VERSION}"

    def __init__(self, images: Images) -> None:
        """Store nothing where the masks of all images (M, S, S, 3) would take more than MOST_STORED bytes."""
        self._size = images.shape[1]
        width = -(-self._size * self._size // 8)
        count = len(images) if len(images) * width <= MOST_STORED else 0
        self._bits = np.zeros((count, width), np.uint8)
        self._known = np.zeros(count, np.uint8)
        """0 not known yet, 1 for a mask, 2 where no object can be told."""

    def __call__(self, images: Images, rows: Rows) -> Images:
        """Return `images` (b, S, S, 3), changed in place, of these rows (b,) of the packed set."""
        for image, row in zip(images, rows.tolist(), strict=True):
            fill_background(image, self._mask(image, row))
        return images

    def _mask(self, image: Images, row: int) -> Mask | None:
        if row >= len(self._known):
            return object_mask(image)
        if not self._known[row]:
            mask = object_mask(image)
            if mask is not None:
                self._bits[row] = np.packbits(mask)
            self._known[row] = 2 if mask is None else 1  # last: another thread may ask for this row
            return mask
        if self._known[row] == 2:
            return None
        return np.unpackbits(self._bits[row], count=self._size**2).reshape(self._size, self._size)


def fill_background(image: Images, mask: Mask | None) -> None:
    """Paint what lies outside `mask` in its mean colour, in place; leave the image as it is where the mask is None."""
    if mask is None:
        return
    outside = 1 - mask
    mean = cv2.mean(image, outside)[:3]
    cv2.copyTo(np.full_like(image, np.rint(mean).astype(np.uint8)), outside, image)


def object_mask(image: Images) -> Mask | None:
    """Return the mask of the object in the centre of an image (S, S, 3) uint8; None where none can be told."""
    size = len(image)
    grid = grid_of(size)
    codes = colour_codes(image, grid)
    found = _found(codes, grid)
    mask = None if found is None else _without_neighbours(_filled(_closed(found, 2)), grid)
    if mask is None or not _is_apart(codes, mask, grid):
        return None
    return enlarged(mask, grid, size)


def _found(codes: Codes, grid: Grid) -> Mask | None:
    """Return the points of the object by their colours, counted a little wider each time; None where there is none."""
    mask: Mask | None = None
    for times, wider in WIDENINGS:
        inside, outside = _counted(mask, wider, grid)
        mask = _central(_more_frequent(codes, inside, outside, times), grid)
        if mask is None:
            return None
    return mask


@cache
def grid_of(size: int) -> Grid:
    """Return the grid of images of `size` pixels."""
    count = min(size, GRID + size % 2)
    rows = _mirrored([((2 * i + 1) * size) // (2 * count) for i in range((count + 1) // 2)], count, size)
    points = _mirrored([(i * count) // size for i in range((size + 1) // 2)], size, count)
    offset = 2 * np.arange(count) - (count - 1)
    radius = offset[:, None] ** 2 + offset[None, :] ** 2
    reach = np.maximum(abs(offset)[:, None], abs(offset)[None, :])
    width = max(1, round(BORDER * count))
    return Grid(
        rows, points, radius <= (2 * CORE * count) ** 2, radius <= (2 * CENTRE * count) ** 2,
        reach > count - 1 - 2 * width, reach >= count - 1
    )  # fmt: skip


def _mirrored(half: list[int], count: int, size: int) -> npt.NDArray[np.int64]:
    """Return `count` positions below `size`: the first half as given, the other its mirror image."""
    first = np.array(half, dtype=np.int64)
    return np.concatenate([first, (size - 1 - first)[::-1][count % 2 :]])


def colour_codes(image: Images, grid: Grid) -> Codes:
    """Return the number of the colour of each point, averaged over the pixels about it."""
    width = (len(image) // len(grid.rows)) | 1
    small = cv2.blur(image, (width, width))[grid.rows][:, grid.rows]
    lab: Images = cv2.cvtColor(cv2.GaussianBlur(small, (3, 3), 0), cv2.COLOR_RGB2LAB).astype(np.uint8)
    bins = [
        _binned(lab[..., axis], count, least)
        for axis, count, least in zip(range(3), (LEVELS, TINTS, TINTS), (NARROWEST[0], *NARROWEST[1:] * 2), strict=True)
    ]
    codes: Codes = (bins[0] * TINTS + bins[1]) * TINTS + bins[2]
    return codes


def _binned(values: npt.NDArray[np.uint8], count: int, least: int) -> Codes:
    """Divide the range of the values, or `least` where that is wider, into `count` bins."""
    lowest = int(values.min())
    width = max(int(values.max()) - lowest + 1, least)
    return (values.astype(np.int32) - lowest) * count // width


def _counted(mask: Mask | None, wider: int, grid: Grid) -> tuple[Bools, Bools]:
    """Return where the colours of the object and of the background are counted."""
    if mask is None:
        return grid.centre, grid.border
    near = cv2.dilate(mask, _disc(wider)) > 0
    far = (cv2.dilate(mask, _disc(APART)) == 0) | (grid.border & (mask == 0))
    return near, far


def _frequencies(codes: Codes, inside: Bools, outside: Bools) -> npt.NDArray[np.float64]:
    """Return the smoothed frequency of each colour inside and outside (2, colours); each row sums up to about 1."""
    size = LEVELS * TINTS * TINTS
    place = np.where(outside, codes + size, np.where(inside, codes, 2 * size))
    counts = np.bincount(place.ravel(), minlength=2 * size + 1)[: 2 * size].astype(np.float64)
    light = _NEIGHBOURS[LEVELS] @ _NEIGHBOURS[LEVELS]  # twice: light falls unevenly on a background
    smooth = light @ counts.reshape(2, LEVELS, TINTS * TINTS)
    smooth = _NEIGHBOURS[TINTS] @ smooth.reshape(2 * LEVELS, TINTS, TINTS) @ _NEIGHBOURS[TINTS]
    rows: npt.NDArray[np.float64] = smooth.reshape(2, size)
    frequencies: npt.NDArray[np.float64] = rows / np.maximum(1, rows.sum(axis=1, keepdims=True))
    return frequencies


_NEIGHBOURS = {size: 2 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1) for size in (LEVELS, TINTS)}
"""Weights 1, 2, 1 of a bin and its neighbours, as a matrix. Sums of whole numbers are exact in any order."""


def _more_frequent(codes: Codes, inside: Bools, outside: Bools, times: float) -> Mask:
    """Return the points whose colour is `times` more frequent inside than outside, smoothed over neighbours."""
    within, without = _frequencies(codes, inside, outside)
    odds = (within + 3e-5) / (within + times * without + 1e-4)
    levels = np.rint(255 * odds).astype(np.uint8)[codes]
    frequent: Mask = (cv2.GaussianBlur(levels, (3, 3), 0) > 127).astype(np.uint8)
    return frequent


def _central(mask: Mask, grid: Grid) -> Mask | None:
    """Return the parts that overlap the centre most, without specks, holes filled; None where nothing is left."""
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(1))
    count, labels = cv2.connectedComponents(opened, connectivity=4)
    overlap = np.bincount(labels[grid.centre], minlength=count)
    overlap[0] = 0
    if not overlap.any():
        return None
    kept = _filled((overlap >= max(1, 0.3 * overlap.max()))[labels].astype(np.uint8))
    return kept if SMALLEST * kept.size <= kept.sum() <= LARGEST * kept.size else None


def _filled(mask: Mask) -> Mask:
    """Return the mask with its holes filled."""
    outside = cv2.copyMakeBorder(1 - mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    filled: Mask = (labels[1:-1, 1:-1] != labels[0, 0]).astype(np.uint8)
    return filled


def _closed(mask: Mask, radius: int) -> Mask:
    """Return the mask with gaps of up to two radii closed; beyond the image there is background."""
    wide = cv2.copyMakeBorder(mask, radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius]
    return np.ascontiguousarray(closed)


def _without_neighbours(mask: Mask, grid: Grid) -> Mask | None:
    """Cut off neighbours that reach the border and hang on the object by a narrow neck; None where nothing is left."""
    wide = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(wide, cv2.DIST_L2, 3)[1:-1, 1:-1]
    neck = NECK * float(depth[grid.centre].max())
    count, labels = cv2.connectedComponents((depth > neck).astype(np.uint8), connectivity=8)
    overlap = np.bincount(labels[grid.centre], minlength=count)
    overlap[0] = 0
    rest = mask.copy()
    for label in np.flatnonzero((overlap < overlap.max()) & (np.arange(count) > 0)):
        wider: Mask = cv2.dilate((labels == label).astype(np.uint8), _disc(int(neck) + 1)).astype(np.uint8)
        neighbour = wider & mask
        if neighbour[grid.border].any():
            rest &= 1 - neighbour
    return _central(rest, grid)


def _is_apart(codes: Codes, mask: Mask, grid: Grid) -> bool:
    """Return whether the object covers the centre, leaves a background at the border, and differs from it in colour."""
    inside = mask > 0
    if inside[grid.core].mean() < LEAST_OF_CORE or inside[grid.edge].mean() > MOST_BORDER:
        return False
    within, without = _frequencies(codes, inside, ~inside)
    return float(np.minimum(within, without).sum()) <= MOST_SHARED


def enlarged(mask: Mask, grid: Grid, size: int) -> Mask:
    """Return the mask of the grid at the size of the image, its outline smoothed."""
    if len(mask) == size:
        return mask
    width = 2 * (size // len(mask)) + 1
    wide = (255 * mask)[grid.points][:, grid.points]
    return (cv2.blur(wide, (width, width)) > 127).astype(np.uint8)


@cache
def _disc(radius: int) -> Mask:
    """Return a disc as a structuring element; OpenCV's own ellipses are not the same when they are turned."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius * (radius + 1)).astype(np.uint8)
