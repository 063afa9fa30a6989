"""Every alteration that robustness is measured with, at its five severities."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hpo.data.dataset import Images
from hpo.robustness import ALTERATIONS, SEVERITIES, alter
from hpo.sheets.drawing import Row, contact_sheet


def corruption_sheet(images: Images, *, draws: int, seed: int = 0) -> Image.Image:
    """The sheet of some images (k, S, S, 3) uint8; a cell shows `draws` of them, one again where there are fewer."""
    shown = np.resize(images, (draws, *images.shape[1:]))
    rows = [Row(name, "", [shown, *(_altered(shown, name, s, seed) for s in SEVERITIES)]) for name in ALTERATIONS]
    return contact_sheet("Corruptions by severity", ["original", *map(str, SEVERITIES)], rows)


def _altered(images: Images, name: str, severity: int, seed: int) -> Images:
    """The same draws for every severity, so that a row shows nothing but it."""
    return np.stack([alter(image, name, severity, np.random.default_rng([seed, i])) for i, image in enumerate(images)])
