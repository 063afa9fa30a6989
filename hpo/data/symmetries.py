"""The eight symmetries of a square: quarter turns, each of them plain or mirrored.

A symmetry is a number: `s % 4` quarter turns anticlockwise, of the image mirrored left to right if s is 4 or more.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

SYMMETRIES = 8

_Value = TypeVar("_Value", bound=np.generic)


def turned(pixels: npt.NDArray[_Value], symmetry: int) -> npt.NDArray[_Value]:
    """Return images (..., S, S) turned by a symmetry, as a view."""
    mirrored = pixels[..., ::-1] if symmetry >= 4 else pixels
    return np.rot90(mirrored, symmetry % 4, axes=(-2, -1))


def turned_coefficients(coefficients: npt.NDArray[_Value], symmetry: int) -> npt.NDArray[_Value]:
    """Return the DCT coefficients (..., K, K) of the turned images, from those of the images.

    Mirroring changes the sign of the odd frequencies of one axis, a transposition swaps the axes.
    """
    signs = np.where(np.arange(coefficients.shape[-1]) % 2, -1, 1).astype(coefficients.dtype)
    if symmetry >= 4:
        coefficients = coefficients * signs
    for _ in range(symmetry % 4):
        coefficients = coefficients.swapaxes(-1, -2) * signs[:, None]
    return coefficients


def turned_offset(down: float, right: float, symmetry: int) -> tuple[float, float]:
    """Return the place of a point of the image, measured from the centre, in the turned image."""
    if symmetry >= 4:
        right = -right
    for _ in range(symmetry % 4):
        down, right = -right, down
    return down, right


def composed(first: int, then: int) -> int:
    """Return the symmetry of turning by `first` and then by `then`."""
    turns = first % 4 if then < 4 else -(first % 4)
    mirrored = (first >= 4) != (then >= 4)
    return (then + turns) % 4 + (4 if mirrored else 0)


def inverse(symmetry: int) -> int:
    """Return the symmetry that undoes another."""
    return symmetry if symmetry >= 4 else -symmetry % 4


def symmetry_in_words(symmetry: int) -> str:
    """Return how an image was turned, as «turned by 90° and mirrored»; "" for the symmetry that changes nothing."""
    # Angles are anticlockwise, and what is mirrored is mirrored first.
    turns = f"turned by {90 * (symmetry % 4)}°" if symmetry % 4 else ""
    mirrored = "mirrored" if symmetry >= 4 else ""
    return " and ".join(word for word in (mirrored, turns) if word)
