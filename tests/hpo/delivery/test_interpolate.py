"""`hpo interpolate`: the arithmetic of the line, the choice of a point, the bundle that is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hpo.bundle.bundle import Bundle, Extras, read_bundle, write_bundle
from hpo.bundle.calibrate import compared_with
from hpo.bundle.manifest import Manifest, Weights
from hpo.bundle.model import load
from hpo.cli import main
from hpo.data import ImageDigests
from hpo.delivery import interpolate as module
from hpo.delivery.interpolate import InterpolateOptions, Tried, best, interpolate, tried_point
from hpo.delivery.weight_changes import between
from hpo.errors import BundleError
from hpo.evaluation.metrics import scores
from hpo.evaluation.paired_difference import MeasuredImages
from hpo.models.weights_file import weights_digest


@pytest.fixture
def tuned(tmp_path: Path, manifest: Manifest, trained, dataset) -> Bundle:
    """Return the bundle of a trial that started from a file of weights."""
    one = trained[0]
    start = Path(one.config.weights)
    given = manifest.model_copy(
        update={"config": one.config, "weights": Weights(file=start.name, digest=weights_digest(start))}
    )
    metrics = {"validation": None, "test": None, "test_openings": []}
    write_bundle(tmp_path / "tuned", given, one.weights, metrics, extras=Extras(known=ImageDigests.of(dataset)))
    return read_bundle(tmp_path / "tuned")


@given(st.floats(0, 1))
def test_the_backbone_lies_on_the_line_and_the_head_is_the_tuned_one(share: float) -> None:
    original = {"backbone.w": torch.tensor([0.0, 4.0]), "head.w": torch.tensor([1.0]), "backbone.n": torch.tensor(3)}
    tuned = {"backbone.w": torch.tensor([2.0, 0.0]), "head.w": torch.tensor([5.0]), "backbone.n": torch.tensor(9)}
    found = between(original, tuned, share)
    torch.testing.assert_close(found["backbone.w"], torch.tensor([2 * share, 4 - 4 * share]))
    assert (float(found["head.w"]), int(found["backbone.n"])) == (5, 9)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.sampled_from(["accuracy", "macro_f1"]))
def test_the_gain_is_that_of_the_weighted_metric(seed: int, weight: float, metric: str) -> None:
    rng = np.random.default_rng(seed)
    units = np.concatenate([np.arange(40), rng.integers(0, 40, 90)])
    images = MeasuredImages(rng.integers(0, 3, 40)[units], units, np.arange(130) >= 40, metric, weight)
    before, after = rng.normal(size=(2, 130, 3))
    found = tried_point(0.8, images, before, after)
    clean, altered = (scores(images.labels[rows], after[rows])[metric] for rows in (slice(40), slice(40, 130)))
    assert (found.clean, found.altered) == (clean, altered)
    assert found.gain == pytest.approx(images.value(after) - images.value(before))
    same = tried_point(1.0, images, before, before)
    assert (same.gain, same.error, same.helps) == (0, 0, False)


def test_the_best_that_helps_is_taken_and_the_tuned_weights_where_none_does() -> None:
    first = Tried(1.0, 0.9, 0.6, 0.0, 0.0)
    noise, small, large = (
        Tried(s, 0.9, 0.6, g, e) for s, g, e in ((0.9, 0.04, 0.02), (0.8, 0.01, 0.001), (0.7, 0.02, 0.008))
    )
    assert best([first, noise, small, large]) == large
    assert best([first, noise]) == first


def test_the_point_that_is_chosen_is_a_bundle_of_its_own(
    tuned: Bundle, images: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "best", lambda tried: next(one for one in tried if one.share == 0.5))
    out, lines = tmp_path / "between", []
    found = interpolate(tuned, images, out, InterpolateOptions(cache), on_tried=lines.append)
    assert [one.share for one in lines] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    written = read_bundle(out)
    assert (found.share, written.manifest.interpolated.share) == (0.5, 0.5)
    start = safetensors.torch.load_file(tuned.manifest.config.weights)
    before, after = safetensors.torch.load(tuned.model), safetensors.torch.load(written.model)
    name = "conv_stem.weight"
    torch.testing.assert_close(after[f"backbone.{name}"], (before[f"backbone.{name}"] + start[name]) / 2)
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("head."))
    assert written.validation is not None
    assert written.manifest.calibration.n == len(written.validation.labels)
    assert written.known == tuned.known
    assert written.manifest.compared == 6 * compared_with(tuned.manifest), "each trial could have had each share"
    assert load(out, "cpu").predict([*images.rglob("*.png")][:2])
    with pytest.raises(BundleError, match="cannot be interpolated: it is interpolated already"):
        interpolate(written, images, tmp_path / "again", InterpolateOptions(cache))


def test_where_no_point_helps_the_bundle_is_written_as_it_was(
    tuned: Bundle, images: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARES", (1.0, 0.9))
    monkeypatch.setattr(module, "best", lambda tried: tried[0])
    found = interpolate(tuned, images, tmp_path / "same", InterpolateOptions(cache))
    same = read_bundle(tmp_path / "same")
    assert (found.share, same.model, same.manifest) == (1.0, tuned.model, tuned.manifest)
    assert "interpolated" not in same.manifest.to_dict()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"stage": "retrained"}, "it has trained on the validation part"),
        ({"stage": "soup", "ingredients": (1, 2)}, "it is of several trials"),
        ({"config": {"pretrained": False, "weights": None}}, "its trial started from random weights"),
        ({"config": {"unfreeze_depth": 0.0}}, "its trial did not train the backbone"),
    ],
)
def test_a_bundle_without_such_a_line_is_refused(
    tuned: Bundle, images: Path, cache: Path, tmp_path: Path, changes: dict, reason: str
) -> None:
    given = {**changes, "config": tuned.manifest.config.replace(**changes.get("config", {}))}
    write_bundle(tmp_path / "other", tuned.manifest.model_copy(update=given), tuned.model, tuned.metrics)
    with pytest.raises(BundleError, match=f"cannot be interpolated: {reason}"):
        interpolate(read_bundle(tmp_path / "other"), images, tmp_path / "out", InterpolateOptions(cache))
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_was_tried_and_written(tuned: Bundle, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "between"
    arguments = ["interpolate", str(tuned.path), "--data", str(images), "--out", str(out), "--home", str(tmp_path)]
    printed = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--threads", "1", "--json"])
    assert printed.exit_code == 0, printed.output
    document = json.loads(printed.stdout)
    assert document["weight"] == 0.5
    assert [one["share"] for one in document["tried"]] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert "share 0.9 of the tuned weights: clean " in printed.stderr
    assert (read_bundle(out).manifest.interpolated is None) == (document["share"] == 1)
