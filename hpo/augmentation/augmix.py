"""AugMix (Hendrycks et al. 2020, algorithm 1): an image mixed with chains of operations on itself.

Three chains (k) of one to three operations, weights w of the chains from Dirichlet(1), a weight m of their mix against
the image from Beta(1, 1). As in the paper, contrast, colour, brightness and sharpness are left out, because similar
corruptions test the robustness. At strength 1 the magnitudes are those of the paper's severity 10, except where that
would lose the subject: the longest shift is 15 % of the side, three bits are left, the darker half is never inverted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images

Floats = npt.NDArray[np.float64]

Operation = Callable[[Images, float], Images]
"""(S, S, 3) uint8 and a magnitude from -1 to 1 -> (S, S, 3) uint8; magnitude 0 changes nothing."""

WIDTH = 3
"""Chains (k) of an image."""

DEPTH = 3
"""Largest number of operations in a chain."""

VIEWS = 2
"""Mixed views of an image that the consistency loss compares with it (equation 2)."""


@dataclass(frozen=True)
class AugMix:
    """Mixes every image with chains of operations."""

    strength: float
    """Factor on the magnitudes; of operations without a magnitude, the share that is applied."""
    beside: bool = False
    """Whether to keep the image and add VIEWS mixed views after it, instead of replacing it by one mixed view."""

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Return mixed images (b, S, S, 3) uint8; if `beside`, (3 b, S, S, 3): each image, view, view."""
        if not self.beside:
            return self._mixed(images, rng)
        views = self._mixed(np.repeat(images, VIEWS, axis=0), rng)
        split = views.reshape(len(images), VIEWS, *images.shape[1:])
        return np.concatenate([images[:, None], split], axis=1).reshape(-1, *images.shape[1:])

    def _mixed(self, images: Images, rng: np.random.Generator) -> Images:
        """Return one mixed view of each image."""
        # The draws are made for the whole batch; only the operations go image by image.
        count = len(images)
        depths = rng.integers(1, DEPTH + 1, (count, WIDTH))
        chosen = rng.integers(0, len(OPERATIONS), (count, WIDTH, DEPTH))
        draws = rng.uniform(-1, 1, chosen.shape)
        magnitudes = np.where(_GRADED[chosen], draws * self.strength, np.abs(draws) < self.strength)
        weights = rng.beta(1, 1, (count, 1)) * rng.dirichlet(np.ones(WIDTH), count)
        out = np.empty_like(images)
        for row, image in enumerate(images):
            chains = [
                _chain(image, chosen[row, k, : depths[row, k]], magnitudes[row, k])  # algorithm 1, lines 7 to 9
                for k in range(WIDTH)
            ]
            out[row] = _blended(image, chains, weights[row])
        return out


def _chain(image: Images, chosen: npt.NDArray[np.int64], magnitudes: Floats) -> Images:
    """Apply the chosen operations one after the other."""
    for number, magnitude in zip(chosen, magnitudes, strict=False):
        image = OPERATIONS[number](image, magnitude)
    return image


def _blended(image: Images, chains: list[Images], weights: Floats) -> Images:
    """Return (1 - m) image + Σ m w chain, rounded once; `weights` (WIDTH,) are m w."""
    near = cv2.addWeighted(image, 1 - weights.sum(), chains[0], weights[0], 0, dtype=cv2.CV_32F)
    far = cv2.addWeighted(chains[1], weights[1], chains[2], weights[2], 0, dtype=cv2.CV_32F)
    return np.asarray(cv2.add(near, far, dtype=cv2.CV_8U), np.uint8)


def _rotate(image: Images, magnitude: float) -> Images:
    middle = (len(image) - 1) / 2
    return _warped(image, np.asarray(cv2.getRotationMatrix2D((middle, middle), 30 * magnitude, 1), np.float64))


def _shear_x(image: Images, magnitude: float) -> Images:
    slope = 0.3 * magnitude
    return _warped(image, np.array([[1, slope, -slope * (len(image) - 1) / 2], [0, 1, 0]]))


def _shear_y(image: Images, magnitude: float) -> Images:
    slope = 0.3 * magnitude
    return _warped(image, np.array([[1, 0, 0], [slope, 1, -slope * (len(image) - 1) / 2]]))


def _translate_x(image: Images, magnitude: float) -> Images:
    return _warped(image, np.array([[1, 0, 0.15 * magnitude * len(image)], [0, 1, 0]]))


def _translate_y(image: Images, magnitude: float) -> Images:
    return _warped(image, np.array([[1, 0, 0], [0, 1, 0.15 * magnitude * len(image)]]))


def _posterize(image: Images, magnitude: float) -> Images:
    """Set the lowest bits, five at most, to zero."""
    return image & np.uint8(256 - (1 << round(5 * abs(magnitude))))


def _solarize(image: Images, magnitude: float) -> Images:
    """Invert values above a threshold, which goes from white down to the middle."""
    return image ^ np.negative((image > 255 - 127 * abs(magnitude)).view(np.uint8))


def _autocontrast(image: Images, magnitude: float) -> Images:
    """Stretch each channel to 0..255."""
    if not magnitude:
        return image
    return np.asarray(cv2.merge([_stretched(channel) for channel in cv2.split(image)]), np.uint8)


def _stretched(channel: Any) -> Any:
    """Stretch a channel to 0..255, unless all its values are equal."""
    lowest, highest, _, _ = cv2.minMaxLoc(channel)
    if highest <= lowest:
        return channel
    scale = 255 / (highest - lowest)
    return cv2.convertScaleAbs(channel, alpha=scale, beta=-lowest * scale)


def _equalize(image: Images, magnitude: float) -> Images:
    """Give each channel an even histogram."""
    if not magnitude:
        return image
    return np.asarray(cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(image)]), np.uint8)


def _warped(image: Images, matrix: Floats) -> Images:
    """Resample by a (2, 3) matrix, bilinear; beyond the border the image is reflected."""
    moved = cv2.warpAffine(image, matrix, image.shape[:2], None, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


OPERATIONS: tuple[Operation, ...] = (
    _autocontrast, _equalize, _posterize, _rotate, _solarize, _shear_x, _shear_y, _translate_x, _translate_y,
)  # fmt: skip
"""The paper's operations, in its order."""

_GRADED = np.array([operation not in (_autocontrast, _equalize) for operation in OPERATIONS])
