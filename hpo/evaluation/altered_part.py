"""The altered part: validation images as another microscope, camera or file might have given them.

Where a study has a robustness above 0, each epoch is measured on it too, so that the search does not choose a model
that is right on clean images alone. It has some of the validation images, each under DRAWS draws; a draw is two
different corruptions of `hpo.corruptions`, one after the other, each at a severity from 1 to 5. It is the same for
every trial of a study, made once and stored:

    <cache>/altered/<key>-<digest>.npy     (m, S, S, 3) uint8; the digest is that of the whole file
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpo.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from hpo.corruptions import VERSION as CORRUPTIONS_VERSION
from hpo.data import digests
from hpo.data.dataset import Images, Labels, Part, Rows
from hpo.evaluation.corrupted_copy import open_stored

VERSION = 1
"""The version of the choice of images and of their draws. It goes up with any change of these."""

DRAWS = 2
"""Draws of each image."""

SHARE = 1 / 8
"""Altered images over training images, at most. Each costs a forward pass, in every epoch or, where the backbone is
frozen, once in a trial: an eighth of what the training images cost at most, and far less where blocks train."""

LEAST = 256
"""Altered images that are allowed in any case: fewer would give a noisy figure, and these take part of a second."""


@dataclass(frozen=True)
class AlteredPart(Part):
    """Altered images of a validation part; `images` are those of the file, not of the packed set."""

    rows: Rows = field(default_factory=lambda: np.arange(0))
    """(m,) the positions in the validation part of the images that they show."""


def altered_part(part: Part, cache: Path, *, train: int) -> AlteredPart:
    """Return the altered part of the validation part `part`, of a model that trains on `train` images.

    Row d k + i is the i-th of k chosen images under draw number d. Which images are chosen, and how they are altered,
    depends on the content of the images alone. Raises OSError if the file cannot be written, DataError if the folder
    cannot be made.
    """
    identities = _identities(part)
    chosen = _chosen(part.labels, identities, _most(train))
    size = part.images.shape[1]
    pixels = [digests.of_pixels(part.images[row]) for row in part.indices[chosen]]
    known = [identities[row] for row in chosen]
    key = digests.of_lines([str(VERSION), str(CORRUPTIONS_VERSION), str(size), *known, *pixels])
    shape = (DRAWS * len(chosen), size, size, 3)
    return AlteredPart(
        images=open_stored(cache / "altered", key[:16], shape, _altered(part, chosen, known)),
        indices=np.arange(shape[0]),
        labels=np.tile(part.labels[chosen], DRAWS),
        names=[part.names[row] for row in chosen] * DRAWS,
        rows=np.tile(chosen, DRAWS),
    )


def altered_count(labels: Labels, *, train: int) -> int:
    """Return the number of images that `altered_part` gives for a validation part with these labels (n,)."""
    return DRAWS * sum(_quota(labels, _most(train)).values())


def _most(train: int) -> int:
    """Return how many validation images may be altered, about."""
    return max(LEAST, int(SHARE * train)) // DRAWS


def _identities(part: Part) -> Sequence[str]:
    """Return a digest of each image: of its stored bytes, so that it is the same at every image size."""
    if part.digests:
        return [stored for stored, _ in part.digests]
    return [digests.of_pixels(part.images[row]) for row in part.indices]


def _quota(labels: Labels, most: int) -> dict[int, int]:
    """Return images by class: all where they are few, else in the proportions of the classes, at least one of each."""
    classes, counts = np.unique(labels, return_counts=True)
    share = min(1.0, most / max(1, len(labels)))
    return {int(label): max(1, round(share * int(count))) for label, count in zip(classes, counts, strict=True)}


def _chosen(labels: Labels, identities: Sequence[str], most: int) -> Rows:
    """Return the positions of the chosen images, in ascending order."""
    # A digest is as good as a random number, and does not depend on the order of the images.
    chosen: list[int] = []
    for label, count in _quota(labels, most).items():
        rows = np.flatnonzero(labels == label).tolist()
        chosen += sorted(rows, key=lambda row: (identities[row], row))[:count]
    return np.sort(np.array(chosen, np.int64))


def _altered(part: Part, chosen: Rows, identities: Sequence[str]) -> Iterator[Images]:
    """Yield the images of the altered part in order."""
    for draw in range(DRAWS):
        for row, identity in zip(chosen, identities, strict=True):
            yield _twice_corrupted(part.images[part.indices[row]], f"{VERSION}/{draw}/{identity}")


def _twice_corrupted(image: Images, text: str) -> Images:
    """Return the image (S, S, 3) under two different corruptions; these and their severities follow from `text`."""
    rng = np.random.default_rng(int(digests.of_lines([text]), 16))
    for number in rng.permutation(len(CORRUPTIONS))[:2]:
        image = corrupt(image, CORRUPTIONS[number], int(rng.integers(1, len(SEVERITIES) + 1)), rng)
    return image
