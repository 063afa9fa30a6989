"""The sheets of augmentations and corruptions show every choice."""

import numpy as np
import pytest

from hpo.augmentation.families import EXTRAS, FAMILIES
from hpo.corruptions import SEEN
from hpo.data.synthetic import cells_arrays
from hpo.figures import choice_sheets as augmentation
from hpo.figures import choice_sheets as corruptions
from hpo.figures.choice_sheets import augmentation_sheet, corruption_sheet
from hpo.unseen_corruptions import UNSEEN


@pytest.fixture(scope="module")
def images():
    return cells_arrays(8, 32, seed=3)[0]


@pytest.fixture
def drawn(monkeypatch):
    """Collect the arguments of `contact_sheet`."""
    sheets = []
    for module in (augmentation, corruptions):
        monkeypatch.setattr(module, "contact_sheet", lambda title, columns, rows: sheets.append((columns, rows)))
    return sheets


def test_all_families_extras_and_mixes_are_shown_at_all_strengths(images, drawn):
    augmentation_sheet(images[:3], draws=3, symmetry="mirror")
    columns, rows = drawn[0]
    assert columns == ["0", "0.25", "0.5", "0.75", "1"]
    assert [row.label for row in rows] == [*(f for f in FAMILIES if f != "none"), *EXTRAS, "mixup", "cutmix"]
    for row in rows:
        assert np.array_equal(row.cells[0], images[:3]), f"{row.label} changes images at strength 0"
        assert {cell.shape for cell in row.cells} == {(3, 32, 32, 3)}


def test_flips_are_left_out_without_symmetry(images, drawn):
    augmentation_sheet(images[:3], draws=3)
    _, rows = drawn[0]
    assert "flips" not in [row.label for row in rows]
    assert "geometric" in [row.label for row in rows]


def test_every_row_changes_some_image(images, drawn):
    augmentation_sheet(images, draws=8)
    _, rows = drawn[0]
    assert not [row.label for row in rows if np.array_equal(row.cells[-1], images)]


def test_one_image_is_repeated_and_not_mixed(images, drawn):
    augmentation_sheet(images[:1], draws=4, operations=5)
    _, rows = drawn[0]
    assert not {"mixup", "cutmix"} & {row.label for row in rows}
    (randaugment,) = [row for row in rows if row.label == "randaugment"]
    assert randaugment.note == "5 operations an image"
    assert len({image.tobytes() for image in randaugment.cells[-1]}) > 1


def test_all_corruptions_are_shown_beside_the_original(images, drawn):
    corruption_sheet(images[:2], draws=2)
    columns, rows = drawn[0]
    assert columns == ["original", "1", "2", "3", "4", "5"]
    assert [(row.label, row.note) for row in rows] == [
        (kind, family.name) for family in (SEEN, UNSEEN) for kind in family.kinds
    ]
    assert all(np.array_equal(row.cells[0], images[:2]) for row in rows)
    assert all(len({cell.tobytes() for cell in row.cells}) == 6 for row in rows)


def test_one_family_alone(images, drawn):
    corruption_sheet(images[:1], draws=1, families=[UNSEEN])
    assert [row.label for row in drawn[0][1]] == list(UNSEEN.kinds)
