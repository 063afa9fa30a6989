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

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images, Part, Rows
from search_spaces import Background

Mask: TypeAlias = npt.NDArray[np.uint8]
"""(S, S) uint8: 1 on the object, 0 on the background."""

Bools: TypeAlias = npt.NDArray[np.bool_]

Masks: TypeAlias = npt.NDArray[np.uint8]
"""(b, m, m) uint8: 1 on the objects, 0 on the background."""

Codes: TypeAlias = npt.NDArray[np.int64]
"""(b, m, m) number of the colour of each point of the grid."""

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

TOGETHER = 6
"""Images whose colours are counted together: few enough for arrays that need no new pages of memory."""

VERSION = 1
"""The version of masks. It goes up when an image may get another one."""

MOST_STORED = 256 << 20
"""Bytes that stored masks may take: 230,000 images of 96 pixels."""


class Grid(NamedTuple):
    """The grid of images of one size: positions of its points, and where its centre and border are."""

    side: int
    """m, the points of a side."""
    pixels: npt.NDArray[np.int16]
    """(m, m, 2) the pixel (x, y) of each point, symmetric about the middle of the image; for `cv2.remap`."""
    points: npt.NDArray[np.int16]
    """(S, S, 2) the point of each pixel, symmetric too."""
    core: Mask
    centre: Mask
    border: Mask
    edge: Mask
    """The outermost points."""
    disc: npt.NDArray[np.int64]
    """The numbers of the points of `centre`."""


def without_background(images: Images) -> Images:
    """Return copies of (b, S, S, 3) uint8 images with the background in its own mean colour.

    An image in which no object can be told from the background is returned as it is.
    """
    found = images.copy()
    for image, mask in zip(found, object_masks(images), strict=True):
        fill_background(image, mask)
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
        if not len(self._known):
            masks = object_masks(images)
        else:
            self._find(images, rows)
            masks = [self._mask(row) for row in rows.tolist()]
        for image, mask in zip(images, masks, strict=True):
            fill_background(image, mask)
        return images

    def _find(self, images: Images, rows: Rows) -> None:
        """Store the masks of those images (b, S, S, 3) that have none yet."""
        new = np.flatnonzero(self._known[rows] == 0)
        for row, mask in zip(rows[new].tolist(), object_masks(images[new]), strict=True):
            if mask is not None:
                self._bits[row] = np.packbits(mask)
            self._known[row] = 2 if mask is None else 1  # last: another thread may ask for this row

    def _mask(self, row: int) -> Mask | None:
        if self._known[row] == 2:
            return None
        return np.unpackbits(self._bits[row], count=self._size**2).reshape(self._size, self._size)


def fill_background(image: Images, mask: Mask | None) -> None:
    """Paint what lies outside `mask` in its mean colour, in place; leave the image as it is where the mask is None."""
    if mask is None:
        return
    outside = 1 - mask
    colour = np.empty_like(image)
    colour[:] = np.tile(np.rint(cv2.mean(image, outside)[:3]).astype(np.uint8), (len(image), 1))  # by rows: quick
    cv2.copyTo(colour, outside, image)


def object_mask(image: Images) -> Mask | None:
    """Return the mask of the object in the centre of an image (S, S, 3) uint8; None where none can be told."""
    return object_masks(image[None])[0]


def object_masks(images: Images) -> list[Mask | None]:
    """Return the masks of images (b, S, S, 3) uint8, each as `object_mask` gives it."""
    grid = grid_of(images.shape[1])
    return [
        mask
        for begin in range(0, len(images), TOGETHER)
        for mask in _object_masks(images[begin : begin + TOGETHER], grid)
    ]


def _object_masks(images: Images, grid: Grid) -> Iterator[Mask | None]:
    codes = colour_codes(images, grid)
    masks: list[Mask | None] = [
        None if found is None else _without_neighbours(_filled(_closed(found, 2)), grid)
        for found in _found(codes, grid)
    ]
    for mask, apart in zip(masks, _are_apart(codes, masks, grid), strict=True):
        yield enlarged(mask, grid, images.shape[1]) if mask is not None and apart else None


def _found(codes: Codes, grid: Grid) -> list[Mask | None]:
    """Return the points of each object by their colours, counted a little wider each time; None where there is none."""
    masks: list[Mask | None] = [None] * len(codes)
    left = np.arange(len(codes))
    near = np.broadcast_to(grid.centre, codes.shape)
    far = np.broadcast_to(grid.border, codes.shape)
    for times, wider in WIDENINGS:
        before = [mask for mask in masks if mask is not None]
        if before:
            near, far = _counted(before, wider, grid)
        for number, frequent in zip(left.tolist(), _more_frequent(codes[left], near, far, times), strict=True):
            masks[number] = _central(frequent, grid)
        left = np.array([number for number, mask in enumerate(masks) if mask is not None], dtype=np.int64)
        if not len(left):
            break
    return masks


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
    core, centre, border, edge = (
        place.astype(np.uint8) for place in (
            radius <= (2 * CORE * count) ** 2, radius <= (2 * CENTRE * count) ** 2, reach > count - 1 - 2 * width,
            reach >= count - 1,
        )
    )  # fmt: skip
    return Grid(count, _pairs(rows), _pairs(points), core, centre, border, edge, np.flatnonzero(centre))


def _pairs(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """Return all pairs of places (n,) as (n, n, 2), the column first."""
    rows, columns = np.meshgrid(places, places, indexing="ij")
    return np.stack([columns, rows], axis=2).astype(np.int16)


def _taken(image: Images, places: npt.NDArray[np.int16]) -> Images:
    """Return the pixels of an image that lie at some places (h, w, 2)."""
    return cv2.remap(image, places, np.empty(0, np.uint16), cv2.INTER_NEAREST).astype(np.uint8, copy=False)


def _mirrored(half: list[int], count: int, size: int) -> npt.NDArray[np.int64]:
    """Return `count` positions below `size`: the first half as given, the other its mirror image."""
    first = np.array(half, dtype=np.int64)
    return np.concatenate([first, (size - 1 - first)[::-1][count % 2 :]])


def colour_codes(images: Images, grid: Grid) -> Codes:
    """Return the number of the colour of each point of images (b, S, S, 3), averaged over the pixels about it."""
    width = (images.shape[1] // grid.side) | 1
    lab = np.empty((3, len(images), grid.side, grid.side), np.uint8)
    for number, image in enumerate(images):
        small = _taken(cv2.blur(image, (width, width)), grid.pixels)
        lab[:, number] = cv2.split(cv2.cvtColor(cv2.GaussianBlur(small, (3, 3), 0), cv2.COLOR_RGB2LAB))
    light, green, blue = (
        _binned(values, count, least)
        for values, count, least in zip(lab, (LEVELS, TINTS, TINTS), (NARROWEST[0], *NARROWEST[1:] * 2), strict=True)
    )
    return ((light * TINTS + green) * TINTS + blue).astype(np.int64)


def _binned(values: Masks, count: int, least: int) -> npt.NDArray[np.float32]:
    """Divide the range of the values (b, m, m) of each image, or `least` where that is wider, into `count` bins."""
    flat = values.reshape(len(values), -1)
    lowest = flat.min(axis=1)[:, None, None]
    width = np.maximum(flat.max(axis=1)[:, None, None] - lowest + np.float32(1), np.float32(least))
    # Whole numbers below 2^12: the quotient, cut off, is exact.
    return np.asarray(np.floor((values - lowest) * np.float32(count) / width))


def _counted(masks: list[Mask], wider: int, grid: Grid) -> tuple[Masks, Masks]:
    """Return where (b, m, m) the colours of objects found before, and of their backgrounds, are counted."""
    near = np.stack([cv2.dilate(mask, _disc(wider)) for mask in masks])
    far = np.stack([cv2.dilate(mask, _disc(APART)) for mask in masks])
    return near.astype(np.uint8, copy=False), (far == 0) | (grid.border & (1 - np.stack(masks)))


def _frequencies(codes: Codes, inside: Masks, outside: Masks) -> npt.NDArray[np.float64]:
    """Return the smoothed frequency of each colour inside and outside (b, 2, colours); each row sums up to about 1."""
    size = LEVELS * TINTS * TINTS
    place = np.where(outside, codes + size, np.where(inside, codes, 2 * size))
    place += (2 * size + 1) * np.arange(len(codes))[:, None, None]
    counts = np.bincount(place.ravel(), minlength=(2 * size + 1) * len(codes)).reshape(len(codes), -1)[:, :-1]
    # Sums of whole numbers below 2^24 are exact.
    bins = counts.reshape(-1, LEVELS, TINTS * TINTS).astype(np.float32)
    light = _NEIGHBOURS[LEVELS] @ _NEIGHBOURS[LEVELS]  # twice: light falls unevenly on a background
    smooth = (light @ bins).reshape(-1, TINTS, TINTS)
    smooth = _NEIGHBOURS[TINTS] @ smooth @ _NEIGHBOURS[TINTS]
    rows = smooth.reshape(len(codes), 2, size).astype(np.float64)
    frequencies: npt.NDArray[np.float64] = rows / np.maximum(1, rows.sum(axis=2, keepdims=True))
    return frequencies


_NEIGHBOURS = {
    size: (2 * np.eye(size) + np.eye(size, k=1) + np.eye(size, k=-1)).astype(np.float32) for size in (LEVELS, TINTS)
}
"""Weights 1, 2, 1 of a bin and its neighbours, as a matrix. Sums of whole numbers are exact in any order."""


def _more_frequent(codes: Codes, inside: Masks, outside: Masks, times: float) -> Masks:
    """Return the points whose colour is `times` more frequent inside than outside, smoothed over neighbours."""
    within, without = _frequencies(codes, inside, outside).swapaxes(0, 1)
    odds = (within + 3e-5) / (within + times * without + 1e-4)
    levels = np.rint(255 * odds).astype(np.uint8)
    levels = levels.ravel().take(codes + levels.shape[1] * np.arange(len(codes))[:, None, None])
    smooth = np.stack([cv2.GaussianBlur(one, (3, 3), 0) for one in levels])
    return (smooth > 127).view(np.uint8)


def _central(mask: Mask, grid: Grid) -> Mask | None:
    """Return the parts that overlap the centre most, without specks, holes filled; None where nothing is left."""
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _disc(1))
    count, labels = cv2.connectedComponents(opened, connectivity=4, ltype=cv2.CV_16U)
    overlap = _overlap(labels, count, grid)
    most = max(overlap)
    if not most:
        return None
    # Of one part alone there is nothing to choose.
    kept: Mask = (
        opened.astype(np.uint8, copy=False)
        if count == 2
        else np.array([part >= max(1, 0.3 * most) for part in overlap], np.uint8)[labels]
    )
    kept = _filled(kept)
    return kept if SMALLEST * kept.size <= cv2.countNonZero(kept) <= LARGEST * kept.size else None


def _overlap(labels: npt.NDArray[Any], count: int, grid: Grid) -> list[int]:
    """Return how many points of the centre each of `count` parts has; 0 for the first, which is the background."""
    overlap: list[int] = np.bincount(labels.ravel()[grid.disc], minlength=count).tolist()
    return [0, *overlap[1:]]


def _filled(mask: Mask) -> Mask:
    """Return the mask with its holes filled."""
    outside = cv2.copyMakeBorder(1 - mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    count, labels = cv2.connectedComponents(outside, connectivity=4, ltype=cv2.CV_16U)
    return mask if count == 2 else (labels[1:-1, 1:-1] != labels[0, 0]).view(np.uint8)


def _closed(mask: Mask, radius: int) -> Mask:
    """Return the mask with gaps of up to two radii closed; beyond the image there is background."""
    wide = cv2.copyMakeBorder(mask, radius, radius, radius, radius, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, _disc(radius))[radius:-radius, radius:-radius]
    return np.ascontiguousarray(closed)


def _without_neighbours(mask: Mask, grid: Grid) -> Mask | None:
    """Cut off neighbours that reach the border and hang on the object by a narrow neck; None where nothing is left."""
    wide = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(wide, cv2.DIST_L2, 3)[1:-1, 1:-1]
    neck = NECK * float(depth.ravel()[grid.disc].max())
    count, labels = cv2.connectedComponents((depth > neck).view(np.uint8), connectivity=8, ltype=cv2.CV_16U)
    overlap = _overlap(labels, count, grid)
    rest = mask.copy()
    for label in range(1, count):
        if overlap[label] < max(overlap):
            wider: Mask = cv2.dilate((labels == label).view(np.uint8), _disc(int(neck) + 1)).astype(np.uint8)
            neighbour = wider & mask
            if (neighbour & grid.border).any():
                rest &= 1 - neighbour
    return _central(rest, grid)


def _are_apart(codes: Codes, masks: list[Mask | None], grid: Grid) -> list[bool]:
    """Return whether each object covers the centre, leaves a background at the border, and differs in colour."""
    apart = [mask is not None and _is_placed(mask, grid) for mask in masks]
    inside = [mask for mask, placed in zip(masks, apart, strict=True) if mask is not None and placed]
    if inside:
        objects = np.stack(inside)
        rows = np.flatnonzero(apart)
        shared = np.minimum(*_frequencies(codes[rows], objects, 1 - objects).swapaxes(0, 1)).sum(axis=1)
        for row, share in zip(rows.tolist(), shared.tolist(), strict=True):
            apart[row] = share <= MOST_SHARED
    return apart


def _is_placed(mask: Mask, grid: Grid) -> bool:
    """Return whether the object covers the centre, and leaves a background at the border."""
    core, edge = (cv2.countNonZero(mask & part) / cv2.countNonZero(part) for part in (grid.core, grid.edge))
    return core >= LEAST_OF_CORE and edge <= MOST_BORDER


def enlarged(mask: Mask, grid: Grid, size: int) -> Mask:
    """Return the mask of the grid at the size of the image, its outline smoothed."""
    if len(mask) == size:
        return mask
    width = 2 * (size // len(mask)) + 1
    wide = _taken(255 * mask, grid.points)
    return (cv2.blur(wide, (width, width)) > 127).view(np.uint8)


@cache
def _disc(radius: int) -> Mask:
    """Return a disc as a structuring element; OpenCV's own ellipses are not the same when they are turned."""
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius * (radius + 1)).astype(np.uint8)
