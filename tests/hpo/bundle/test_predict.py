"""Prediction takes a batch at a time, lists what it cannot read, and fails only when nothing can be read."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import hpo
from hpo.bundle import predict as module
from hpo.bundle.predict import Counts, PredictOptions, predict
from hpo.errors import DataError, UsageError

from .conftest import CLASSES, draw


@pytest.fixture
def model(bundle):
    return hpo.load(bundle, device="cpu")


def test_a_folder_with_all_below_it_is_predicted_as_one_by_one(model, images, tmp_path):
    counts = predict(model, images, str(tmp_path / "out.json"), batch_size=7)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert counts == Counts(predicted=30)
    alone = {one.name: one for one in model.predict(sorted(images.rglob("*.png")))}
    assert {row["name"] for row in rows} == set(alone)
    for row in rows:
        assert row["probabilities"] == pytest.approx(alone[row["name"]].probabilities, abs=1e-5)
        assert row["label"] == CLASSES[row["index"]]


def test_predictions_below_the_threshold_abstain_and_are_counted(model, images, tmp_path):
    sure = sorted(one.probability for one in model.predict(sorted(images.rglob("*.png")), tta="flips"))
    answering = PredictOptions(tta="flips", threshold=(sure[9] + sure[10]) / 2)
    counts = predict(model, images, str(tmp_path / "out.json"), options=answering, batch_size=30)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert counts == Counts(predicted=30, abstained=10)
    assert sum(row["label"] is None for row in rows) == sum(row["abstained"] for row in rows) == 10
    assert all(row["abstained"] == (row["probability"] < answering.threshold) for row in rows)


def test_no_more_than_a_batch_is_in_memory(model, tmp_path, monkeypatch):
    """Thirty batches pass through, and none is kept: each is dead when the next is asked for."""
    import weakref

    alive = []

    def batches(source, size, batch, white):
        for number in range(30):
            pixels = np.zeros((batch, size, size, 3), np.uint8)
            assert sum(reference() is not None for reference in alive) <= 1
            alive.append(weakref.ref(pixels))
            yield [f"{number}-{i}" for i in range(batch)], pixels, []

    monkeypatch.setattr(module, "iter_images", batches)
    done = []
    counts = predict(model, tmp_path, str(tmp_path / "out.csv"), batch_size=2, progress=done.append)
    assert counts == Counts(predicted=60)
    assert done == list(range(2, 61, 2))
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 61


def test_unreadable_images_are_listed_and_the_rest_predicted(model, tmp_path):
    folder = draw(tmp_path / "images", 2, seed=5)
    (folder / "red" / "empty.png").write_bytes(b"")
    calls = []
    counts = predict(model, folder, str(tmp_path / "out.json"), on_unreadable=calls.append)
    errors = [row for row in json.loads((tmp_path / "out.json").read_text()) if "error" in row]
    assert counts == Counts(predicted=6, unreadable=1)
    assert [image.name for image in calls] == [row["name"] for row in errors]
    assert errors[0]["name"].endswith("empty.png")


def test_nothing_readable_is_an_error_and_leaves_no_file(model, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "torn.jpg").write_bytes(b"torn")
    with pytest.raises(DataError, match="none of the 1 images"):
        predict(model, tmp_path / "images", str(tmp_path / "out.json"))
    assert not (tmp_path / "out.json").exists()


def test_one_image_and_an_npz_are_predicted(model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "one.png")
    np.savez(tmp_path / "some.npz", images=pixels, labels=np.zeros(3, np.int64))
    for name, count in (("one.png", 1), ("some.npz", 3)):
        assert predict(model, tmp_path / name, str(tmp_path / "out.json")).predicted == count


def test_a_missing_source_and_a_batch_size_of_zero_are_refused(model, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        predict(model, tmp_path / "nowhere", str(tmp_path / "out.json"))
    with pytest.raises(UsageError, match="--batch-size is 0"):
        predict(model, tmp_path, str(tmp_path / "out.json"), batch_size=0)


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_a_file_name_that_is_not_utf_8_is_written_escaped(model, tmp_path, suffix):
    draw(tmp_path / "images", 1, seed=3)
    some = next((tmp_path / "images").rglob("*.png"))
    some.rename(some.with_name(os.fsdecode(b"caf\xe9.png")))
    out = tmp_path / f"out.{suffix}"
    predict(model, tmp_path / "images", str(out))
    assert "caf\\udce9.png" in out.read_text()
    if suffix == "json":
        assert os.fsdecode(b"caf\xe9.png") in {row["name"].rpartition("/")[2] for row in json.loads(out.read_text())}


def test_stdout_is_json_even_where_no_image_could_be_read(model, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "torn.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError):
        predict(model, tmp_path / "images", "-")
    (row,) = json.loads(capsys.readouterr().out)
    assert "error" in row
