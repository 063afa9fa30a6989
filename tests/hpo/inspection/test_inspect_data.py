"""All checks together: on folders of images, with and without embeddings."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

import hpo
from hpo.data.findings import Findings
from hpo.errors import HubError, ModelError, UsageError
from hpo.inspection import inspect_data
from hpo.inspection.inspect_data import InspectionOptions, cheap_line, check_cheaply, inspect_images
from tests.hpo.pictures import blobs

CHEAP = InspectionOptions(image_size=32, embeddings=False, map=False)


@pytest.fixture
def folder(tmp_path):
    """Return two classes with a copy, a turned copy, a conflict, a blank and a broken image among them."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            picture = np.random.default_rng(100 * label + number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC).save(
                tmp_path / "data" / name / f"{number:02}.png"
            )
    data = tmp_path / "data"
    shutil.copy(data / "cat/00.png", data / "cat/copy.png")
    Image.open(data / "cat/01.png").rotate(90).save(data / "cat/turned.png")
    shutil.copy(data / "cat/02.png", data / "dog/conflict.png")
    Image.new("RGB", (64, 64), "white").save(data / "dog/blank.png")
    (data / "dog/broken.png").write_bytes(b"no image")
    return data


def test_the_cheap_checks_find_what_was_planted(folder, tmp_path):
    found = inspect_images(folder, CHEAP, cache=tmp_path / "cache")
    dropped = {row.file: row.finding for row in found.findings.rows if row.action == "drop"}
    assert (
        dropped
        == {
            "cat/copy.png": "copy",
            "cat/turned.png": "copy",
            "cat/02.png": "conflict",
            "dog/conflict.png": "conflict",
            "dog/blank.png": "odd",
            "dog/broken.png": "unreadable",
        }
        or dropped.get("cat/00.png") == "copy"
    )
    assert found.outliers is None
    assert "embeddings" in found.skipped
    assert set(found.seconds) == {"images", "copies", "other checks"}
    line = cheap_line(check_cheaply(folder, image_size=32, cache=tmp_path / "cache"))
    assert line == (
        "3 copies, 1 of them turned or mirrored; 2 copies of one picture under several classes; 1 blank image"
    )


def turned(image):
    return image.rotate(90)


@pytest.mark.parametrize(
    ("planted", "line"),
    [
        ({}, ""),
        ({"train/a/copy.png": blobs(0)}, "1 copy"),
        ({"train/a/copy.png": turned(blobs(0))}, "1 copy, 1 of them turned or mirrored"),
        (
            {"train/b/copy.png": turned(blobs(0))},
            "1 copy, 1 of them turned or mirrored; 2 copies of one picture under several classes",
        ),
        ({"val/a/copy.png": blobs(0)}, "1 copy; 2 images in two of the given parts"),
        ({"train/a/blank.png": Image.new("RGB", (64, 64), "grey")}, "1 blank image"),
        ({"train/c/1.png": blobs(99), "train/c/2.png": blobs(98)}, "fewer than 10 images of c (2)"),
    ],
)
def test_each_quick_check_says_what_it_found(tmp_path, planted, line):
    for number in range(24):
        path = tmp_path / "data" / ("val" if number < 4 else "train") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs(number if number >= 4 else 50 + number).save(path)
    blobs(0).save(tmp_path / "data/train/a/one.png")
    for name, image in planted.items():
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / "data" / name)
    assert cheap_line(check_cheaply(tmp_path / "data", image_size=32, cache=tmp_path / "cache")) == line


def test_all_checks_with_random_weights(folder, tmp_path, monkeypatch):
    config = {"backbone": "test_resnet", "pretrained": False, "image_size": 32}
    from hpo.models.frozen_backbone import FrozenBackbone
    from search_spaces import TrialConfig

    random = FrozenBackbone(TrialConfig.from_dict(config))
    monkeypatch.setattr(inspect_data, "_backbone", lambda options: (random, {}))
    steps: list[str] = []
    found = inspect_images(
        folder, InspectionOptions(image_size=32), cache=tmp_path / "cache",
        progress=lambda step, done, total: steps.append(step) if done <= total else None,
    )  # fmt: skip
    assert list(dict.fromkeys(steps)) == ["images", "copies", "embeddings", "judging"]
    assert found.embeddings is not None
    assert found.outliers is not None
    assert found.labels is not None


def test_weights_that_cannot_be_fetched_are_said(folder, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise HubError("no network: give --set pretrained=false")

    monkeypatch.setattr("hpo.models.frozen_backbone.FrozenBackbone.__init__", unreachable)
    found = inspect_images(folder, InspectionOptions(image_size=32), cache=tmp_path / "cache")
    assert found.skipped["embeddings"].startswith("no network; give --weights FILE")
    assert "--set" not in found.skipped["embeddings"]
    assert found.unfetched
    with pytest.raises(HubError, match="no network: give --weights FILE, or --no-embeddings"):
        inspect_images(folder, InspectionOptions(image_size=32, backbone="resnet18"), cache=tmp_path / "cache")


def test_wrong_weights_are_an_error(folder, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    options = InspectionOptions(image_size=32, backbone="test_resnet", weights=tmp_path / "w.safetensors")
    with pytest.raises(ModelError):
        inspect_images(folder, options, cache=tmp_path / "cache")


def test_the_python_call_returns_findings(folder, tmp_path):
    found = hpo.inspect(folder, embeddings=False, image_size=32, cache=tmp_path / "cache")
    assert isinstance(found, Findings)
    assert found.changes().drop_counts()["copy"] == 2
    assert "--no-embeddings" in found.notes[0]


def test_groups_are_in_notes_reasons_and_embeddings(folder, tmp_path, monkeypatch):
    from hpo.models.frozen_backbone import FrozenBackbone
    from search_spaces import TrialConfig

    random = FrozenBackbone(TrialConfig.from_dict({"backbone": "test_resnet", "pretrained": False, "image_size": 32}))
    monkeypatch.setattr(inspect_data, "_backbone", lambda options: (random, {}))
    by = r"/([0-9]|copy|turned|conflict|blank)[^/]*$"
    options = InspectionOptions(image_size=32, group_by=by, map=False)
    found = inspect_images(folder, options, cache=tmp_path / "cache")
    assert found.groups is not None
    assert (found.groups.count, found.groups.across) == (6, 3)
    assert found.embeddings is not None
    assert found.embeddings.together is not None
    reason = next(row.reason for row in found.findings.rows if row.file == "cat/copy.png")
    assert reason.endswith("it lies in 2 groups by «" + by + "»: 0, copy")
    notes = hpo.inspect(folder, embeddings=False, image_size=32, group_by=by, cache=tmp_path / "cache").notes
    assert notes[0].startswith("grouped by «")
    with pytest.raises(UsageError, match="has no group in parentheses"):
        hpo.inspect(folder, embeddings=False, image_size=32, group_by="cat", cache=tmp_path / "cache")


def test_a_file_that_a_table_lists_twice_stays(tmp_path):
    rows = ["path,label"]
    for number in range(6):
        picture = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(picture).resize((64, 64)).save(stream, "PNG")
        (tmp_path / f"{number}.png").write_bytes(stream.getvalue())
        rows.append(f"{number}.png,{'ab'[number % 2]}")
    (tmp_path / "table.csv").write_text("\n".join([*rows, rows[1]]))
    found = inspect_images(tmp_path / "table.csv", CHEAP, cache=tmp_path / "cache")
    assert "0.png" not in found.findings.changes().drops
