"""A copy of a data set as another laboratory might have stained and photographed it.

    python -m benchmarks.recolour ../shared/data/pbc96_small800.npz lab/ --seed 1

Writes class folders of PNGs. The two stains of all images together are found in optical density (Macenko et al. 2009,
ISBI 1107-1110), each is mixed with the other and with a random colour, their amounts are scaled, and the light gets a
tint. What the two stains do not explain stays. It stands in for images of another laboratory where none are at hand:
only colours change, so that a real one is harder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpo.data.dataset import Images
from hpo.data.decode import fit, silence_pillow
from hpo.data.opening import open_source

Floats = npt.NDArray[np.float64]

LEAST_DENSITY = 0.15
"""Optical density under which a pixel is background."""

EDGES = (1, 99)
"""Percentiles of the angle at which the two stains lie."""

MOST_PIXELS = 500_000
"""Pixels from which the stains are found."""


@dataclass(frozen=True)
class StainShift:
    """The change from one laboratory to another."""

    before: Floats
    """(2, 3): optical densities of the two stains, of length 1."""
    after: Floats
    """(2, 3): those of the other laboratory."""
    amounts: Floats
    """(2,): factors of the amounts of stain."""
    light: Floats
    """(3,): what is left of red, green and blue light where there is no stain."""

    def apply(self, image: Images) -> Images:
        """Return the image (S, S, 3) uint8 as the other laboratory would have taken it."""
        density = density_of(image).reshape(-1, 3)
        concentration = np.linalg.lstsq(self.before.T, density.T, rcond=None)[0]
        rest = density - concentration.T @ self.before
        changed = (self.amounts[:, None] * concentration).T @ self.after + rest
        values = 256 * np.exp(-changed) * self.light - 1
        return np.clip(np.rint(values), 0, 255).astype(np.uint8).reshape(image.shape)


def density_of(image: Images) -> Floats:
    """Return the optical density of uint8 values."""
    return -np.log((image.astype(np.float64) + 1) / 256)


def stains_of(images: Images) -> Floats:
    """Return (2, 3): the optical densities of the two stains of images (n, S, S, 3), as Macenko et al. find them."""
    pixels = images.reshape(-1, 3)
    chosen = np.random.default_rng(0).permutation(len(pixels))[:MOST_PIXELS]
    density = density_of(pixels[chosen])
    density = density[(density > LEAST_DENSITY).all(axis=1)]
    if len(density) < 3:
        raise SystemExit("no stain is found: nearly all pixels are white")
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, :0:-1]  # the two directions in which densities differ most
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    angles = np.arctan2(*(density @ plane).T[::-1])
    found = np.stack([plane @ np.array([np.cos(angle), np.sin(angle)]) for angle in np.percentile(angles, EDGES)])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def draw_shift(stains: Floats, seed: int, strength: float) -> StainShift:
    """Draw another laboratory; at strength 0 it is the same, at 1 the cells look clearly different."""
    rng = np.random.default_rng(seed)
    mixed = stains + strength * (rng.uniform(0, 0.35, (2, 1)) * stains[::-1] + rng.uniform(-0.2, 0.2, (2, 3)))
    mixed = np.clip(mixed, 0.02, None) if strength else mixed
    return StainShift(
        before=stains,
        after=mixed / np.linalg.norm(mixed, axis=1, keepdims=True),
        amounts=np.exp(strength * rng.uniform(-0.4, 0.4, 2)),
        light=1 - strength * rng.uniform(0, 0.18, 3),
    )


def read_images(data: Path, size: int) -> Iterator[tuple[str, Images]]:
    """Yield class and image (size, size, 3) of every image of a data set."""
    source = open_source(data)
    listing = source.listing()
    with silence_pillow(), source.reads() as reads:
        for record, read in zip(listing.records, reads, strict=False):
            yield listing.classes[record.label], fit(read(), size)


def recolour(data: Path, out: Path, *, size: int, seed: int, strength: float) -> int:
    """Write the recoloured images of `data` into class folders of `out`, which must be new; return their number."""
    names, images = zip(*read_images(data, size), strict=True)
    shift = draw_shift(stains_of(np.stack(images)), seed, strength)
    out.mkdir(parents=True)
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        path = out / name / f"{number:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(shift.apply(image)).save(path)
    return len(images)


def main() -> None:
    """Make the copy that the command line asks for."""
    parser = argparse.ArgumentParser(description="Recolour labelled images as another laboratory's.")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strength", type=float, default=1.0)
    given = parser.parse_args()
    count = recolour(given.data, given.out, size=given.size, seed=given.seed, strength=given.strength)
    print(f"{count} images, seed {given.seed}, strength {given.strength:g}: {given.out}")


if __name__ == "__main__":
    main()
