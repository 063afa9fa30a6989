"""Cards: colours, captions, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.bundle.model import Model
from hpo.errors import UsageError
from hpo.explain import overlay
from hpo.explain.card import Card, class_position, draw_cards, explain
from hpo.figures.contact_sheet import CARD_MARGIN, MOST_COLUMNS, PICTURE, check_png, write_png

from .conftest import SIZE


def card(lines: tuple[str, ...] = ("red  0.900",), *, heat: float = 1.0, title: str = "cell.png") -> Card:
    image = np.full((SIZE, SIZE, 3), 200, np.uint8)
    return Card(image, np.full((SIZE, SIZE), heat, np.float32), title, lines)


def test_places_without_heat_are_unchanged(images: np.ndarray) -> None:
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:4, :4] = 1
    found = overlay(images[0], heat)
    assert found.dtype == np.uint8
    assert np.array_equal(found[4:], images[0, 4:])
    assert (found[:4, :4] != images[0, :4, :4]).any(axis=2).all()


def test_the_hottest_colour_is_red() -> None:
    grey = np.full((1, 2, 3), 128, np.uint8)
    warm, hot = overlay(grey, np.array([[0.5, 1.0]], np.float32))[0].astype(int)
    assert hot[0] > hot[1]
    assert hot[0] > hot[2]
    assert warm[1] > warm[0]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, MOST_COLUMNS, 2)])
def test_cards_lie_in_rows(count: int, columns: int, rows: int) -> None:
    sheet = draw_cards([card() for _ in range(count)], "bundle: grad-cam")
    assert sheet.mode == "RGB"
    width, height = sheet.size
    assert width // (2 * PICTURE + CARD_MARGIN) == columns
    assert height // (PICTURE + CARD_MARGIN) == rows


def test_the_pictures_are_the_image_and_its_heat() -> None:
    pixels = np.asarray(draw_cards([card()], "t"))
    row = pixels[-PICTURE // 2 - 60]  # through the middle of the pictures, above the caption
    assert (row[CARD_MARGIN + 10] == 200).all()
    assert (row[CARD_MARGIN + PICTURE + 20] != 200).any()


def test_every_line_is_written() -> None:
    one, three = (draw_cards([card(lines)], "t") for lines in (("a",), ("a", "b", "c")))
    assert three.height > one.height
    ink = [(np.asarray(sheet.convert("L")) < 128).sum() for sheet in (one, three)]
    assert ink[1] > ink[0]


def test_long_names_stay_inside() -> None:
    sheet = draw_cards([card(title="folder/" * 60 + "cell.png")], "t")
    margin = np.asarray(sheet)[:, -CARD_MARGIN + 2 :]
    assert (margin == 255).all()


def test_the_file_is_replaced_without_leftovers(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    path.write_text("older")
    write_png(path, draw_cards([card()], "t"))
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    path.write_text("older")
    with pytest.raises(OSError, match="cannot write mode"):
        write_png(path, Image.new("CMYK", (4, 4)))
    assert path.read_text() == "older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jpg", "must end in .png"), ("folder.png", "is a folder"), ("no/a.png", "there is no folder")],
)
def test_paths_that_cannot_be_written_are_refused(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=expected):
        check_png(tmp_path / name)


def test_cards_have_the_predicted_class_of_each_image(model: Model, images: np.ndarray) -> None:
    names = [f"{number}.png" for number in range(len(images))]
    found = explain(model, names, images)
    assert found.method == "grad-cam"
    for one, name, prediction in zip(found.cards, names, model.predict(images), strict=True):
        assert one.title == name
        assert one.lines[0] == f"{prediction.label}  {prediction.probability:.3f}"
        assert one.empty == (len(one.lines) == 2)


def test_a_target_has_its_own_probability_and_heat(model: Model, images: np.ndarray) -> None:
    names = [str(number) for number in range(len(images))]
    predictions = model.predict(images)
    target = next(name for name in model.classes if name != predictions[0].label)
    found = explain(model, names, images, target=target)
    for one, prediction in zip(found.cards, predictions, strict=True):
        assert one.lines[1] == f"heat for {target}  {prediction.probabilities[target]:.3f}"
    assert not np.array_equal(found.cards[0].heat, explain(model, names, images).cards[0].heat)


def test_a_map_of_zeros_is_empty() -> None:
    assert card(heat=0.0).empty
    assert not card().empty


@pytest.mark.parametrize(("name", "end"), [("gren", "; did you mean green?"), ("zzz", "")])
def test_an_unknown_class_is_refused_with_all_classes_and_the_nearest(name: str, end: str) -> None:
    with pytest.raises(UsageError) as caught:
        class_position(("blue", "green", "red"), name)
    assert str(caught.value) == f"--target is {name!r}, but must be one of the model's 3 classes, blue, green, red{end}"
    with pytest.raises(UsageError, match=r"c19 and 80 more$"):
        class_position([f"c{n}" for n in range(100)], "zzz")
