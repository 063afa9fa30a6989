"""Pixels for a page: PNG as a data URI, small enough that hundreds of them fit."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 96
"""Largest side of an image on the page, in pixels: at worst 37 kB each."""
SMALL = 56
"""Where there are many."""


def data_uri(image: npt.NDArray[np.uint8], side: int = SIDE) -> str:
    """(H, W, 3) uint8 RGB as `data:image/png;base64,…`, made smaller where its larger side is above `side` pixels."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
