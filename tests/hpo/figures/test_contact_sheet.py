"""Contact sheets: every image in its place, no label cut off."""

import numpy as np
import pytest
from PIL import Image

from hpo.errors import UsageError
from hpo.figures.contact_sheet import SMALLEST_TILE, SheetRow, contact_sheet, write_png

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour, size, count=1):
    return np.full((count, size, size, 3), colour, np.uint8)


def places(sheet, colour):
    """Return (left, top, right, bottom) of what has a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(("size", "tile"), [(16, 64), (50, 100), (64, 64), (96, 96)])
def test_images_lie_in_their_row_and_column_enlarged_by_a_whole_factor(size, tile):
    rows = [SheetRow("a", "", [plain(RED, size), plain(GREEN, size)]), SheetRow("b", "", [plain(BLUE, size)] * 2)]
    sheet = contact_sheet("title", ["x", "y"], rows)
    red, green, blue = (places(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert red[2] - red[0] == red[3] - red[1] == tile >= SMALLEST_TILE
    assert red[2] < green[0]
    assert red[1] == green[1]
    assert blue[1] > red[3]
    assert blue[0] == red[0]
    assert blue[2] == green[2]


def test_images_of_a_cell_lie_side_by_side():
    cell = np.concatenate([plain(RED, 64), plain(GREEN, 64), plain(BLUE, 64)])
    sheet = contact_sheet("title", ["x"], [SheetRow("a", "", [cell])])
    red, green, blue = (places(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert red[2] < green[0] < green[2] < blue[0]


@pytest.mark.parametrize("text", ["i", "a label that is a good deal longer than any that there is"])
def test_no_label_runs_into_the_images_or_off_the_sheet(text):
    sheet = contact_sheet(text * 2, ["x"], [SheetRow(text, text + " and a note", [plain(RED, 64)])])
    left = places(sheet, RED)[0]
    pixels = np.asarray(sheet)[places(sheet, RED)[1] :]
    assert (pixels[:, left - 8 : left] == 255).all(), "a label touches the images"
    assert (np.asarray(sheet)[:, -8:] == 255).all(), "something is cut off at the right"
    assert (pixels[:, :left] < 128).any(), "no label was drawn"


def test_the_file_is_a_png_of_the_sheet_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "new" / "sheet.png"
    for colour in ("red", "blue"):
        write_png(path, Image.new("RGB", (4, 3), colour))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.getpixel((0, 0)) == BLUE
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]


def test_another_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--out is .*sheet.jpg, but must end in .png"):
        write_png(tmp_path / "sheet.jpg", Image.new("RGB", (4, 3)))
