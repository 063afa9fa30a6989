"""`hpo show` draws its sheets, and answers a mistake in one line."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hpo.cli import main
from hpo.data.synthetic import write_cells

SHARED = Path(__file__).parents[4] / "shared" / "data"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["show", *map(str, arguments)])


@pytest.mark.parametrize(("sheet", "columns"), [("augmentation", 5), ("corruptions", 6), ("background", 2)])
def test_a_sheet_of_drawn_cells(tmp_path: Path, sheet: str, columns: int) -> None:
    out = tmp_path / "sheet.png"
    result = run(sheet, "--out", out, "--image-size", 64, "--samples", 2)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == str(out)
    assert "no DATA was given: the sheet shows synthetic cells" in result.stderr
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert image.width > columns * 2 * 64


@pytest.mark.parametrize("sheet", ["augmentation", "corruptions", "background"])
def test_the_same_seed_draws_the_same_sheet_of_a_data_set(tmp_path: Path, sheet: str) -> None:
    data = tmp_path / "cells"
    write_cells(data, 24, size=32, seed=0)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run(sheet, data, "--image-size", 32, "--seed", seed, "--out", tmp_path / f"{name}.png").exit_code == 0
    sheets = [(tmp_path / f"{name}.png").read_bytes() for name in "abc"]
    assert sheets[0] == sheets[1] != sheets[2]


def test_an_image_is_enough(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "pink").save(tmp_path / "cell.jpg")
    assert run("augmentation", tmp_path / "cell.jpg", "--samples", 1, "--out", tmp_path / "sheet.png").exit_code == 0


def test_the_sheet_is_written_here_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("corruptions", "--image-size", 16, "--samples", 1).exit_code == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["corruptions.png"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("augmentation", "nowhere"), "nowhere does not exist: give the path of"),
        (("corruptions", "--out", "sheet.jpg"), "--out is sheet.jpg, but must end in .png"),
    ],
)
def test_mistakes_are_answered_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_group_says_what_it_draws() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "augmentation" in result.output
    assert "corruptions" in result.output


@pytest.mark.data
def test_real_cells_in_a_zip_and_in_arrays(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    for name in ("pbc96_trainval.zip", "pbc96_small800.npz"):
        result = run("corruptions", SHARED / name, "--out", tmp_path / "sheet.png")
        assert result.exit_code == 0, result.output


def test_a_fault_of_an_image_is_reported_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "zero.png").write_bytes(b"")
    result = run("augmentation", tmp_path / "zero.png", "--out", tmp_path / "sheet.png")
    assert result.exit_code == 2
    assert str(tmp_path / "zero.png") in result.output


def test_a_sheet_that_nothing_could_open_is_refused(tmp_path: Path) -> None:
    result = run("corruptions", "--image-size", 1024, "--samples", 16, "--out", tmp_path / "sheet.png")
    assert result.exit_code == 2
    assert "16 samples of 1024 px make cells of over 2048 px" in result.output


def test_the_sheet_follows_the_symmetry_that_labels_survive(tmp_path: Path) -> None:
    heights, pictures = {}, set()
    for symmetry in ("none", "mirror", "dihedral"):
        out = tmp_path / f"{symmetry}.png"
        assert (
            run("augmentation", "--symmetry", symmetry, "--image-size", 32, "--samples", 2, "--out", out).exit_code == 0
        )
        with Image.open(out) as image:
            heights[symmetry] = image.height
        pictures.add(out.read_bytes())
    assert heights["none"] < heights["mirror"] == heights["dihedral"]  # flips have nothing to show under none
    assert len(pictures) == 3
