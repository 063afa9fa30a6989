"""`hpo make-cells` draws what was asked for, and reports an invalid argument in one line."""

from pathlib import Path

from click.testing import CliRunner

from hpo.cli import main


def run(*arguments: str):
    return CliRunner().invoke(main, ["make-cells", *arguments])


def test_class_folders_hold_the_images(tmp_path: Path):
    out = tmp_path / "cells"
    result = run(str(out), "--images", "20", "--size", "32", "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "20 cells of 8 classes" in result.output
    assert len(list(out.iterdir())) == 8
    assert len(list(out.glob("*/*.jpg"))) == 20


def test_splits_lie_above_the_classes(tmp_path: Path):
    result = run(str(tmp_path / "cells"), "--images", "24", "--size", "32", "--splits")
    assert result.exit_code == 0, result.output
    assert {folder.name for folder in (tmp_path / "cells").iterdir()} == {"train", "val", "test"}


def test_a_folder_in_use_is_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep me")
    result = run(str(tmp_path), "--images", "20")
    assert result.exit_code == 2
    assert "is not empty" in result.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]
