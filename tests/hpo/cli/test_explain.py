"""`hpo explain` draws where a bundle looks, and answers a mistake in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner, Result
from PIL import Image

from hpo.bundle.bundle import write_bundle
from hpo.bundle.manifest import RESIZE_RULE, DataOrigin, Manifest, Preprocessing, Weights
from hpo.cli import main
from hpo.models.built_model import build_model
from search_spaces import TrialConfig

SIZE = 32
CONFIG = TrialConfig(backbone="test_resnet", pretrained=False, image_size=SIZE, precision="fp32")
CLASSES = ("blue", "green", "red")
Explain = Callable[..., Result]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    weights = safetensors.torch.save(build_model(CONFIG, len(CLASSES)).model.state_dict())
    manifest = Manifest(
        stage="exported", study="colours", trial=0, metric="accuracy", config=CONFIG, classes=CLASSES,
        preprocessing=Preprocessing(image_size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3, resize=RESIZE_RULE),
        epochs=1, best_epoch=1, seed=0, weights=Weights(), versions={},
        data=DataOrigin(fingerprint="0", split="", seed=0, val_fraction=0.1, test_fraction=0.1),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("explain") / "bundle"
    write_bundle(path, manifest, weights, {"validation": None, "test": None, "test_openings": []})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two folders below one, of other sizes than the model's."""
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def explain(bundle: Path, tmp_path: Path) -> Explain:
    """Return the command on the bundle, on one thread of the CPU, with its picture at `out.png`."""

    def call(*arguments: str | Path, of: Path = bundle, out: str = "out.png") -> Result:
        settled = ["--out", str(tmp_path / out), "--home", str(tmp_path / "home"), "--device", "cpu", "--threads", "1"]
        return CliRunner().invoke(main, ["explain", str(of), *map(str, arguments), *settled])

    return call


def refusal(result: Result) -> str:
    """Return the one line with which the command refused."""
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("hpo: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_folder_becomes_a_sheet(explain: Explain, folder: Path, tmp_path: Path) -> None:
    result = explain(folder)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'out.png'}: 6 images, grad-cam" in result.stdout
    with Image.open(tmp_path / "out.png") as sheet:
        assert sheet.width > 4 * 2 * SIZE


def test_images_are_named_one_by_one(explain: Explain, folder: Path) -> None:
    result = explain(folder / "a" / "0.png", folder / "b" / "1.png", "--target", "green", "--method", "grad-cam")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.stdout


def test_the_limit_takes_the_first(explain: Explain, folder: Path) -> None:
    result = explain(folder, "--limit", "4")
    assert result.exit_code == 0, result.output
    assert "4 images" in result.stdout


def test_an_unreadable_image_is_reported_and_skipped(explain: Explain, folder: Path) -> None:
    (folder / "a" / "1.png").write_bytes(b"\x89PNG")
    result = explain(folder)
    assert result.exit_code == 0, result.output
    assert "5 images" in result.stdout
    assert f"unreadable: {folder / 'a' / '1.png'}" in result.stderr


def test_the_limit_is_of_images_that_can_be_read(explain: Explain, folder: Path) -> None:
    (folder / "0").mkdir()
    for number in range(5):
        (folder / "0" / f"{number}.png").write_bytes(b"\x89PNG")
    result = explain(folder, "--limit", "4")
    assert result.exit_code == 0, result.output
    assert "4 images" in result.stdout
    assert result.stderr.count("unreadable: ") == 5


def test_none_that_can_be_read_is_refused(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    assert "none of the 1 images could be read" in refusal(explain(tmp_path / "torn.png"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--target", "grean"], "--target is 'grean', but must be one of the model's 3 classes"),
        (["--method", "rollout"], "no attention that a class token reads; give --method grad-cam"),
        (["--method", "magic"], "'magic' is not one of"),
        (["--limit", "0"], "0 is not in the range"),
        (
            ["nosuch.jpg"],
            "nosuch.jpg does not exist: give the path of a folder, an image, or a .zip, .npz or .csv file",
        ),
    ],
)
def test_mistakes_are_one_line(
    explain: Explain, folder: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    result = explain(folder, *arguments)
    assert expected in refusal(result)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("out", "expected"), [("out.jpg", "must end in .png"), ("no/out.png", "there is no folder")])
def test_the_place_is_checked_before_the_work(explain: Explain, out: str, expected: str, tmp_path: Path) -> None:
    assert expected in refusal(explain("nowhere", of=tmp_path / "no-bundle", out=out))


def test_what_is_not_there_is_named(explain: Explain, folder: Path, tmp_path: Path) -> None:
    assert "no-bundle: no such folder" in refusal(explain(folder, of=tmp_path / "no-bundle"))
    assert "nowhere.png does not exist" in refusal(explain(tmp_path / "nowhere.png"))


def test_an_image_is_asked_for(explain: Explain) -> None:
    assert "missing argument 'IMAGE...'" in refusal(explain())
