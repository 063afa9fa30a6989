"""Contact sheets of augmentations by strength and of corruptions by severity, and the images that they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hpo.augmentation.augmenter import build_augmenter
from hpo.augmentation.background import object_mask, without_background
from hpo.augmentation.families import EXTRAS, FAMILIES
from hpo.corruption_family import SEVERITIES, CorruptionFamily
from hpo.corruptions import SEEN
from hpo.data.dataset import Images, Labels
from hpo.data.decode import fit, silence_pillow
from hpo.data.formats import is_image
from hpo.data.opening import open_source, require_path
from hpo.data.synthetic import CELL_CLASSES, draw_cell
from hpo.errors import DataError
from hpo.figures.contact_sheet import SheetRow, contact_sheet
from hpo.training.loss import build_mixer
from hpo.unseen_corruptions import UNSEEN
from search_spaces import Symmetry, TrialConfig

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

MIXES = ("mixup", "cutmix")


def augmentation_sheet(
    images: Images, *, draws: int, operations: int = 2, symmetry: Symmetry = "none", seed: int = 0
) -> Image.Image:
    """Return the sheet of every family of augmentation, every extra, MixUp and CutMix, at strengths from 0 to 1.

    Each cell shows `draws` of the images (k, S, S, 3) uint8, repeated if there are fewer. `operations` are those of
    RandAugment; `symmetry` says which flips and turns keep the labels true. A row uses the same images and the same
    seed at every strength. Mixes are left out for a single image, flips if the symmetry is `none`.
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
    """Return a cell for each strength of a family or an extra."""
    return [build_augmenter(_only(base, name, strength))(images, seed) for strength in STRENGTHS]


def _only(base: TrialConfig, name: str, strength: float) -> TrialConfig:
    """Return the configuration with this augmentation and no other."""
    chosen = {"augmentation": name, "augmentation_strength": strength} if name in FAMILIES else {name: strength}
    return base.replace(**chosen)


def _mixed(name: str, images: Images, seed: int) -> list[Images]:
    """Return a cell for each alpha, with every image mixed with the next."""
    partners = np.roll(images, -1, axis=0)
    return [
        np.stack([_mix(name, alpha, pair, seed + i) for i, pair in enumerate(zip(images, partners, strict=True))])
        for alpha in STRENGTHS
    ]


def _mix(name: str, alpha: float, pair: tuple[Images, Images], seed: int) -> Images:
    """Return the first of two images (S, S, 3), mixed with the second."""
    mixer = build_mixer(TrialConfig.from_dict({name: alpha}), 2)
    if mixer is None:
        return pair[0]
    inputs = torch.from_numpy(np.stack(pair)).permute(0, 3, 1, 2).float()
    mixed, _ = mixer(inputs, torch.tensor([0, 1]), seed)
    return mixed[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


CORRUPTION_FAMILIES = {family.name: family for family in (SEEN, UNSEEN)}


def corruption_sheet(
    images: Images, *, draws: int, families: Sequence[CorruptionFamily] = (SEEN, UNSEEN), seed: int = 0
) -> Image.Image:
    """Return the sheet of every corruption of the families at its five severities, beside the original.

    Each cell shows `draws` of the images (k, S, S, 3) uint8, repeated if there are fewer.
    """
    shown = np.resize(images, (draws, *images.shape[1:]))
    rows = [
        SheetRow(kind, family.name, [shown, *(_corrupted(shown, family, kind, step, seed) for step in SEVERITIES)])
        for family in families
        for kind in family.kinds
    ]
    return contact_sheet("Corruptions by severity", ["original", *map(str, SEVERITIES)], rows)


def _corrupted(images: Images, family: CorruptionFamily, kind: str, severity: int, seed: int) -> Images:
    # The random draws are the same for all severities, so that a row differs in severity alone.
    return np.stack(
        [family.corrupt(image, kind, severity, np.random.default_rng([seed, i])) for i, image in enumerate(images)]
    )


def background_sheet(images: Images, *, draws: int) -> tuple[Image.Image, int]:
    """Return the sheet of images (k, S, S, 3) uint8 beside what `background: mask` makes of them, `draws` in a cell.

    Also return in how many of them no object can be told from the background; these stay as they are.
    """
    groups = np.array_split(images, max(1, len(images) // draws))
    rows = [SheetRow(str(number), "", [group, without_background(group)]) for number, group in enumerate(groups, 1)]
    kept = sum(object_mask(image) is None for image in images)
    title = f"Background: in {len(images) - kept} of {len(images)} images an object can be told from it"
    return contact_sheet(title, ["keep", "mask"], rows), kept


def sample_images(path: Path | None, count: int, size: int, seed: int) -> Images:
    """Return `count` images (count, S, S, 3) uint8, S = `size`, of as many classes as possible, drawn from `seed`.

    They are from the data set at `path`, of which only these are decoded; only the image itself if `path` is one; drawn
    cells for None. Raises DataError if there is no image or one cannot be read.
    """
    rng = np.random.default_rng(seed)
    if path is None:
        labels = rng.permutation(np.arange(max(count, len(CELL_CLASSES))) % len(CELL_CLASSES))[:count]
        return np.stack([draw_cell(int(label), seed + number, size) for number, label in enumerate(labels)])
    if require_path(path, "folder, an image, or a .zip, .npz or .csv file").is_file() and is_image(path.name):
        try:
            return fit(path.read_bytes(), size)[None]
        except DataError as error:
            raise DataError(f"{path}: {error}; give an image that can be read") from None
    return _sample_source(path, count, size, rng)


def _sample_source(path: Path, count: int, size: int, rng: np.random.Generator) -> Images:
    source = open_source(path)
    listing = source.listing()
    if not listing.records:
        raise DataError(f"{path} holds no image: give a data set with some, or one image")
    wanted = _rows_by_turns(listing.labels, count, rng)
    found: dict[int, Images] = {}
    with silence_pillow(), source.reads() as reads:
        for row, read in zip(range(max(wanted) + 1), reads, strict=False):
            if row in wanted:
                try:
                    found[row] = fit(read(), size)
                except DataError as error:
                    raise DataError(f"{listing.records[row].name} in {path}: {error}") from None
    return np.stack([found[row] for row in wanted])


def _rows_by_turns(labels: Labels, count: int, rng: np.random.Generator) -> list[int]:
    """Return `count` rows, or all if there are fewer: the classes take turns, in random order like their rows."""
    shuffled = rng.permutation(len(labels))
    place = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = shuffled[labels[shuffled] == label]
        place[of_class] = np.arange(len(of_class))
    return [int(row) for row in shuffled[np.argsort(place[shuffled], kind="stable")][:count]]
