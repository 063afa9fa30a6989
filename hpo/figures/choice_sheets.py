"""Every alteration that robustness is measured with, at its five severities.

Every family of augmentation, every extra, MixUp and CutMix, each at strengths from 0 to 1.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from hpo.augmentation.augmenter import build_augmenter
from hpo.augmentation.families import EXTRAS, FAMILIES
from hpo.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from hpo.data.dataset import Images
from hpo.figures.contact_sheet import SheetRow, contact_sheet
from hpo.training.loss import build_mixer
from search_spaces import Symmetry, TrialConfig


def corruption_sheet(images: Images, *, draws: int, seed: int = 0) -> Image.Image:
    """The sheet of some images (k, S, S, 3) uint8; a cell shows `draws` of them, one again where there are fewer."""
    shown = np.resize(images, (draws, *images.shape[1:]))
    rows = [SheetRow(name, "", [shown, *(_altered(shown, name, s, seed) for s in SEVERITIES)]) for name in CORRUPTIONS]
    return contact_sheet("Corruptions by severity", ["original", *map(str, SEVERITIES)], rows)


def _altered(images: Images, name: str, severity: int, seed: int) -> Images:
    """The same draws for every severity, so that a row shows nothing but it."""
    return np.stack(
        [corrupt(image, name, severity, np.random.default_rng([seed, i])) for i, image in enumerate(images)]
    )


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

MIXES = ("mixup", "cutmix")


def augmentation_sheet(
    images: Images, *, draws: int, operations: int = 2, symmetry: Symmetry = "none", seed: int = 0
) -> Image.Image:
    """The sheet of some images (k, S, S, 3) uint8; a cell shows `draws` of them, one again where there are fewer.

    `operations` are those of RandAugment; `symmetry` is what leaves labels true. A row has the same images and the same
    seed at every strength. What mixes two images is left out where there is but one, flips where labels survive none.
    """
    shown = np.resize(images, (draws, *images.shape[1:]))
    base = TrialConfig(
        augmentation="none", image_size=images.shape[1], randaugment_operations=operations, symmetry=symmetry
    )
    families = [name for name in FAMILIES if name != "none" and (name != "flips" or symmetry != "none")]
    rows = [SheetRow(name, _note(name, operations), _augmented(base, name, shown, seed)) for name in families]
    rows += [SheetRow(name, "", _augmented(base, name, shown, seed)) for name in EXTRAS]
    if len(images) > 1:
        rows += [SheetRow(name, "alpha in place of a strength", _mixed(name, shown, seed)) for name in MIXES]
    title = f"Augmentation: families and extras by strength, symmetry {symmetry}"
    return contact_sheet(title, [f"{s:g}" for s in STRENGTHS], rows)


def _note(family: str, operations: int) -> str:
    return f"{operations} operations an image" if family == "randaugment" else ""


def _augmented(base: TrialConfig, name: str, images: Images, seed: int) -> list[Images]:
    """A cell for each strength of a family or an extra."""
    return [build_augmenter(_only(base, name, strength))(images, seed) for strength in STRENGTHS]


def _only(base: TrialConfig, name: str, strength: float) -> TrialConfig:
    """A configuration that does nothing but this."""
    chosen = {"augmentation": name, "augmentation_strength": strength} if name in FAMILIES else {name: strength}
    return base.replace(**chosen)


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
