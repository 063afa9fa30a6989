"""Every family of augmentation, every extra, MixUp and CutMix, each at strengths from 0 to 1."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from hpo.data.dataset import Images
from hpo.sheets.drawing import Row, contact_sheet
from hpo.training.augment import build_augmenter
from hpo.training.families import EXTRAS, FAMILIES
from hpo.training.mix import build_mixer
from search_spaces import TrialConfig

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MIXES = ("mixup", "cutmix")


def augmentation_sheet(images: Images, *, draws: int, operations: int = 2, seed: int = 0) -> Image.Image:
    """The sheet of some images (k, S, S, 3) uint8; a cell shows `draws` of them, one again where there are fewer.

    `operations` are those of RandAugment. A row has the same images and the same seed at every strength. What mixes
    two images is left out where there is but one.
    """
    shown = np.resize(images, (draws, *images.shape[1:]))
    families = [name for name in FAMILIES if name != "none"]
    rows = [Row(name, _note(name, operations), _augmented(name, shown, operations, seed)) for name in families]
    rows += [Row(name, "", _augmented(name, shown, operations, seed)) for name in EXTRAS]
    if len(images) > 1:
        rows += [Row(name, "alpha in place of a strength", _mixed(name, shown, seed)) for name in MIXES]
    return contact_sheet("Augmentation: families and extras by strength", [f"{s:g}" for s in STRENGTHS], rows)


def _note(family: str, operations: int) -> str:
    return f"{operations} operations an image" if family == "randaugment" else ""


def _augmented(name: str, images: Images, operations: int, seed: int) -> list[Images]:
    """A cell for each strength of a family or an extra."""
    return [build_augmenter(_config(name, s, images.shape[1], operations))(images, seed) for s in STRENGTHS]


def _config(name: str, strength: float, size: int, operations: int) -> TrialConfig:
    """A configuration that does nothing but this."""
    chosen = {"augmentation": name, "augmentation_strength": strength} if name in FAMILIES else {name: strength}
    return TrialConfig.from_dict(
        {"augmentation": "none", "image_size": size, "randaugment_operations": operations, **chosen}
    )


def _mixed(name: str, images: Images, seed: int) -> list[Images]:
    """A cell for each alpha: every image mixed with the next."""
    partners = np.roll(images, -1, axis=0)
    return [
        np.stack([_mix(name, alpha, pair, seed + i) for i, pair in enumerate(zip(images, partners, strict=True))])
        for alpha in STRENGTHS
    ]


def _mix(name: str, alpha: float, pair: tuple[Images, Images], seed: int) -> Images:
    """The first of two images (S, S, 3), mixed with the second."""
    mixer = build_mixer(TrialConfig.from_dict({name: alpha}), 2)
    if mixer is None:
        return pair[0]
    inputs = torch.from_numpy(np.stack(pair)).permute(0, 3, 1, 2).float()
    mixed, _ = mixer(inputs, torch.tensor([0, 1]), seed)
    return mixed[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
