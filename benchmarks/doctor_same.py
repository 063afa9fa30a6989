"""Decide by brute force whether two images show the same picture, to judge pairs of which no truth is known.

Real data sets have copies of their own, so a found pair of two untouched images is not wrong just because nothing was
planted there. This check is slow (about 20 ms a pair) and independent of the code that it judges: each of the eight
orientations is aligned by an affine transformation (ECC, Evangelidis and Psarakis 2008), and the correlation of the
pixels in the common area decides. It ignores brightness and contrast. Contact sheets remain the last word.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.doctor_pictures import Pixels, decode, turn

SIDE = 64
CORRELATION = 0.85
"""Of details, see `detail`. Of blood cells, planted copies reach 0.855 to 1, pairs of different cells at most 0.77."""
Plane = npt.NDArray[np.float32]


def prepared(pixels: Pixels) -> Plane:
    """Return the centre square in grey at SIDE px, in float32."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[top : top + side, left : left + side]), cv2.COLOR_RGB2GRAY)
    found: Plane = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return found


def detail(plane: Plane) -> Plane:
    """Return what is left after a wide blur: cells agree in their outline, copies in their texture too."""
    found: Plane = plane - cv2.GaussianBlur(plane, (0, 0), 3.0)
    return found


def similarity(one: Pixels, other: Pixels) -> tuple[float, int]:
    """Return the best correlation of details over the eight orientations, and the orientation."""
    target = prepared(one)
    best = (-1.0, 0)
    ranked = sorted(((correlation(target, prepared(turn(other, way))), way) for way in range(8)), reverse=True)
    for _, way in ranked[:3]:
        best = max(best, (aligned(target, prepared(turn(other, way))), way))
    return best


def correlation(one: Plane, other: Plane, mask: npt.NDArray[np.bool_] | None = None) -> float:
    """Return Pearson's correlation, of the pixels in `mask` if it is given."""
    a, b = (one[mask], other[mask]) if mask is not None else (one.ravel(), other.ravel())
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def aligned(target: Plane, moving: Plane) -> float:
    """Return the correlation of details after an affine alignment; -1 if nothing aligns or under half overlaps."""
    motion = np.eye(2, 3, dtype=np.float32)
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    try:
        _, motion = cv2.findTransformECC(target, moving, motion, cv2.MOTION_AFFINE, until, None, 5)
    except cv2.error:
        return -1.0
    if not plausible(motion):
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(detail(moving), motion, (SIDE, SIDE), flags=flags)
    inside = cv2.warpAffine(np.ones_like(moving), motion, (SIDE, SIDE), flags=flags) > 0.99
    inside[:4], inside[-4:], inside[:, :4], inside[:, -4:] = False, False, False, False
    if inside.mean() < 0.5:
        return -1.0
    return correlation(detail(target), warped, inside)


def plausible(motion: npt.NDArray[np.float32]) -> bool:
    """Return whether an alignment moves, scales and turns no more than a copy would: a fifth, and 6 degrees."""
    linear, offset = motion[:, :2], motion[:, 2]
    middle = linear @ np.array([SIDE / 2, SIDE / 2]) + offset - SIDE / 2
    scales = np.linalg.svd(linear, compute_uv=False)
    angle = abs(np.degrees(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])))
    return bool(abs(middle).max() < SIDE / 5 and scales.min() > 0.8 and scales.max() < 1.25 and angle < 6)


class SamePicture:
    """Answers for pairs of stored images; decoded images are kept for a while."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        self._stored = stored
        self._pixels = lru_cache(maxsize=512)(self._decode)

    def _decode(self, file: str) -> Pixels:
        return decode(self._stored[file])

    def similarity(self, one: str, other: str) -> tuple[float, int]:
        """Return correlation and orientation, see `similarity`."""
        return similarity(self._pixels(one), self._pixels(other))

    def __call__(self, one: str, other: str) -> bool:
        """Return whether two files show the same picture."""
        return self.similarity(one, other)[0] >= CORRELATION
