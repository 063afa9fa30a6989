"""`hpo adapt`: a new bundle with other statistics and the same weights, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from hpo.bundle.adapt import AdaptOptions, adapt
from hpo.bundle.bundle import Bundle, Extras, read_bundle, write_bundle
from hpo.bundle.evaluate import select
from hpo.bundle.manifest import Manifest
from hpo.bundle.model import load
from hpo.cli import main
from hpo.data import ImageDigests, sample_images
from hpo.errors import BundleError, DataError
from hpo.models.built_model import build_model
from tests.hpo.bundle.conftest import CLASSES, draw


@pytest.fixture
def darker(tmp_path: Path) -> Path:
    """Return 24 images that are unlike those of the training."""
    return draw(tmp_path / "darker", 8, seed=9)


@pytest.fixture
def known_bundle(tmp_path: Path, manifest: Manifest, weights: bytes, dataset) -> Bundle:
    path = tmp_path / "known"
    opening = {
        "date": "2026-01-01",
        "command": "evaluate",
        "data": "f",
        "test": "t",
        "model": "m",
        "n": 3,
        "accuracy": 1,
    }
    metrics = {"validation": None, "test": None, "test_openings": [opening]}
    write_bundle(path, manifest, weights, metrics, extras=Extras(known=ImageDigests.of(dataset)))
    return read_bundle(path)


def test_the_statistics_change_and_the_weights_stay(known_bundle: Bundle, darker: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted"
    found = adapt(known_bundle, [darker], out, AdaptOptions(most=20))
    adapted = read_bundle(out)
    before, after = safetensors.torch.load(known_bundle.model), safetensors.torch.load(adapted.model)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {name for name in before if name.endswith(("running_mean", "running_var"))}
    given = adapted.manifest.adapted
    assert given is not None
    assert (given.images, given.found, given.sources, given.prior) == (20, 24, ("darker",), 16)
    assert found.changes[0].share == 20 / 36
    assert adapted.validation is None
    assert len(adapted.metrics["test_openings"]) == 1, "the records of test access are handed on"
    assert Manifest.from_dict(adapted.manifest.to_dict(), source="x") == adapted.manifest
    assert "adapted" not in known_bundle.manifest.to_dict()
    assert load(out, "cpu").predict([*darker.rglob("*.png")])


def test_the_images_took_part_and_are_not_measured(
    known_bundle: Bundle, darker: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "adapted"
    adapt(known_bundle, [darker], out, AdaptOptions(most=20))
    selection = select(read_bundle(out), darker, cache=cache, split=None)
    assert (selection.overlap.took_part, len(selection.part)) == (20, 4)
    assert read_bundle(out).known != known_bundle.known
    assert read_bundle(out).known.test_digest == known_bundle.known.test_digest


def test_an_adapted_bundle_is_not_adapted_again_and_proves_no_threshold(
    bundle: Path, darker: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapted"
    adapt(read_bundle(bundle), [darker], out)
    with pytest.raises(BundleError, match="is adapted already, to 24 images; adapt the bundle that it was made from"):
        adapt(read_bundle(out), [darker], tmp_path / "again")
    with pytest.raises(BundleError, match="is adapted to unlabelled images, so no predictions prove anything of it"):
        load(out, "cpu").abstention(0.9)


def test_a_backbone_without_batchnorm_is_refused_in_one_line(manifest: Manifest, darker: Path, tmp_path: Path) -> None:
    config = manifest.config.replace(normalisation="group")
    model = safetensors.torch.save(build_model(config, len(CLASSES)).model.state_dict())
    write_bundle(tmp_path / "group", manifest.model_copy(update={"config": config}), model, {"test_openings": []})
    with pytest.raises(BundleError, match="mobilenetv2_035 with group normalisation has no BatchNorm") as refused:
        adapt(read_bundle(tmp_path / "group"), [darker], tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_changed(bundle: Path, darker: Path, tmp_path: Path) -> None:
    (darker / "note.png").write_text("no image")
    out = tmp_path / "adapted"
    arguments = [
        "adapt",
        str(bundle),
        str(darker),
        "--out",
        str(out),
        "--home",
        str(tmp_path),
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    first, moved, labels, measure = result.stdout.splitlines()
    assert first == (f"{out}: BatchNorm statistics of 52 layers, 60% from 24 unlabelled images, the rest as trained")
    assert re.fullmatch(
        r"backbone\.\S+ changed most: the mean of a channel moved by \d.* by a factor of \d+\.\d\d", moved
    )
    assert "of these 24 images get another label; the mean probability of the label was " in labels
    assert f"`hpo evaluate {out} --data LABELLED`" in measure
    assert "unreadable: " in result.stderr
    printed = CliRunner().invoke(main, [*arguments, "--force", "--json"])
    document = json.loads(printed.stdout)
    assert document["adapted"]["images"] == document["images"] == 24
    assert document["unreadable"] == 1
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "give --force to replace it" in refused.stderr


def test_a_sample_is_even_and_the_same_again(tmp_path: Path) -> None:
    folder = draw(tmp_path / "many", 20, seed=2)
    first, again = (sample_images([folder], 16, 30) for _ in range(2))
    assert first.names == again.names
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.found, first.pixels.shape, len(set(first.names))) == (60, (30, 16, 16, 3), 30)
    counts = [sum(f"/{name}/" in one for one in first.names) for name in CLASSES]
    assert min(counts) >= 4, "not the first 30 images, which are of two classes"
    assert len(sample_images([folder], 16, 500).names) == 60


def test_a_folder_in_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(DataError, match="none of 1 files can be read"):
        sample_images([tmp_path], 16, 8)
