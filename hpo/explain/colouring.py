"""A heat map laid over its image."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]

OPAQUE = 0.6
"""How much of the image the hottest colour covers."""


def overlay(image: Images, heat: Heat) -> Images:
    """(S, S, 3) uint8 RGB: `image` (S, S, 3) uint8 under the colours of `heat` (S, S) in [0, 1].

    What is cold is clear, so that an image without any heat stays as it is.
    """
    levels = np.round(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    share = OPAQUE * np.clip(heat, 0, 1)[..., None]
    mixed: Images = np.round((1 - share) * image + share * colours).astype(np.uint8)
    return mixed
