"""The mask of the stained cell in a micrograph, by colour, and the share of the heat that lies on it.

Stain absorbs green light and transmits blue, so `blue - green` is high in nuclei and granules, lower in pale cytoplasm,
lower still in red cells, and lowest in the background. Otsu's threshold (1979) is used three times: for the certainly
stained area, for the background, and between the two for cytoplasm against red cells.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hpo.data.dataset import Images

Mask = npt.NDArray[np.bool_]

Heat = npt.NDArray[np.float32]

BLUR = 1 / 96
"""Standard deviation of the smoothing, as a fraction of the image's side; so are the next three."""

GAP = 5 / 96
"""Width of gaps between granules that are closed."""

BRIDGE = 7 / 96
"""Width of what is removed: contacts with red cells, specks."""

CENTRE = 0.2
"""Standard deviation of the weight of areas by their distance from the centre, where the cell of such an image is."""


def cell_mask(image: Images) -> Mask:
    """Return the (S, S) bool mask of the stained cell at the centre of `image` (S, S, 3) uint8 RGB, without holes.

    The mask is empty for an image of one colour. Pale cytoplasm may be missed if red cells have the same colour.
    """
    stain = _stain(image)
    sure, maybe = _thresholds(stain)
    core = _central(_morphed(stain > sure, cv2.MORPH_CLOSE, GAP))
    cell = _morphed((stain > maybe) | core, cv2.MORPH_OPEN, BRIDGE)
    return _filled(_central(cell | core))


def mass_inside(heat: Heat, mask: Mask) -> float:
    """Return the share in [0, 1] of the sum of `heat` (S, S) inside `mask` (S, S); NaN if there is no heat at all.

    For a uniform heat map it equals the mask's share of the area.
    """
    total = float(heat.sum(dtype=np.float64))
    return float(heat[mask].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def _stain(image: Images) -> Images:
    """Return (S, S) uint8: blue minus green plus 128, smoothed."""
    values = image.astype(np.int16)
    raised = np.clip(values[..., 2] - values[..., 1] + 128, 0, 255).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(raised, (0, 0), BLUR * len(image)), np.uint8)


def _thresholds(stain: Images) -> tuple[float, float]:
    """Return the thresholds of certain and of probable stain; the second is never above the first."""
    sure = _otsu(stain)
    pale = stain[stain <= sure]
    between = pale[pale > _otsu(pale)]
    return sure, _otsu(between) if between.size else sure


def _otsu(values: Images) -> float:
    """Return Otsu's threshold of `values`; their maximum if all are equal."""
    if values.min() == values.max():
        return float(values.max())
    threshold, _ = cv2.threshold(values.reshape(-1, 1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(threshold)


def _morphed(mask: Mask, operation: int, width: float) -> Mask:
    """Return the mask closed or opened with a disc of `width`, a fraction of the side."""
    pixels = max(3, round(width * len(mask)) | 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (pixels, pixels))
    return np.asarray(cv2.morphologyEx(mask.astype(np.uint8), operation, disc), np.bool_)


def _central(mask: Mask) -> Mask:
    """Return the connected part of the largest area, weighted by its distance from the centre."""
    count, parts, numbers, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return np.zeros_like(mask)
    middle = (len(mask) - 1) / 2
    distance = np.hypot(*(centroids[1:] - middle).T) / len(mask)
    score = numbers[1:, cv2.CC_STAT_AREA] * np.exp(-0.5 * (distance / CENTRE) ** 2)
    central: Mask = parts == 1 + score.argmax()
    return central


def _filled(mask: Mask) -> Mask:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED), np.bool_)
