"""The stained cell is separated from red cells and background by its colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hpo.explain import cell_mask, mass_inside

SMALL = Path("../shared/data/pbc96_small800.npz")
CREAM, RED_CELL, PALE, NUCLEUS = (255, 226, 198), (208, 168, 165), (196, 160, 184), (62, 30, 112)


def micrograph(size: int = 96, centre: tuple[int, int] = (50, 46)) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of a pale cell with a bent nucleus between red cells, with noise; and where the cell is."""
    image = np.full((96, 96, 3), CREAM, np.uint8)
    for place in ((5, 10), (88, 12), (12, 90), (92, 80)):
        cv2.circle(image, place, 14, RED_CELL, cv2.FILLED)
    cv2.circle(image, centre, 20, PALE, cv2.FILLED)
    cv2.ellipse(image, centre, (11, 11), 0, 30, 300, NUCLEUS, 8)
    cv2.circle(image, (70, 90), 2, NUCLEUS, cv2.FILLED)  # a platelet far from the centre
    mask = cv2.circle(np.zeros((96, 96), np.uint8), centre, 20, 1, cv2.FILLED)
    noisy = image + np.random.default_rng(0).normal(0, 2, image.shape)
    resized = cv2.resize(np.clip(noisy, 0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_AREA)
    return resized, cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST) > 0


@pytest.mark.parametrize("size", [48, 96, 224])
def test_the_cell_is_found(size: int) -> None:
    image, truth = micrograph(size)
    found = cell_mask(image)
    assert found.shape == (size, size)
    assert found.dtype == np.bool_
    assert (found & truth).sum() / (found | truth).sum() > 0.85


def test_the_cell_at_the_centre_is_chosen() -> None:
    image, truth = micrograph()
    small, _ = micrograph(centre=(20, 46))
    image[:, :24] = small[:, :24]  # half of a second cell, at the border
    found = cell_mask(image)
    assert found[truth].mean() > 0.9
    assert found[:, :24].mean() < 0.1


@pytest.mark.parametrize("colour", [CREAM, (0, 0, 0), (255, 255, 255)])
def test_a_plain_image_gives_an_empty_mask(colour: tuple[int, int, int]) -> None:
    assert not cell_mask(np.full((32, 32, 3), colour, np.uint8)).any()


def test_the_share_of_heat_inside_the_mask() -> None:
    heat, mask = np.zeros((4, 4), np.float32), np.zeros((4, 4), bool)
    mask[:2] = True
    heat[1, 1], heat[3, 3] = 0.75, 0.25
    assert mass_inside(heat, mask) == 0.75
    assert mass_inside(np.ones((4, 4), np.float32), mask) == mask.mean()
    assert np.isnan(mass_inside(np.zeros((4, 4), np.float32), mask))


@pytest.mark.data
@pytest.mark.skipif(not SMALL.is_file(), reason="the real cells are not at ../shared")
def test_real_cells_are_about_as_large_as_their_kind() -> None:
    with np.load(SMALL, allow_pickle=False) as stored:
        images, labels = stored["images"], stored["labels"].ravel()
    area = np.array([cell_mask(image).mean() for image in images])
    assert (area > 0).all()
    medians = [np.median(area[labels == number]) for number in range(8)]
    assert all(0.15 < median < 0.5 for median in medians[:7])
    assert 0.03 < medians[7] < 0.12  # platelets
