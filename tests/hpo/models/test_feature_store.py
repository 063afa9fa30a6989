"""The feature store: found again, shared, bounded, and never half written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpo.augmentation.background import prepared
from hpo.data import digests
from hpo.data.dataset import Part
from hpo.errors import DataError, ModelError
from hpo.interruption import TrainingInterrupted
from hpo.models import feature_store
from hpo.models.feature_store import FeatureStore
from hpo.models.frozen_backbone import FrozenBackbone
from search_spaces import TrialConfig
from tests.hpo.training.conftest import SIZE, coloured

COUNT = 150


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return make_backbone()


def make_backbone(**changes: object) -> FrozenBackbone:
    values = {"backbone": "test_resnet", "pretrained": False, "image_size": SIZE, **changes}
    return FrozenBackbone(TrialConfig.from_dict(values))


def whole(count: int = COUNT) -> Part:
    images, labels = coloured(count)
    rows = np.arange(count)
    pairs = [(digests.of_pixels(image), digests.of_pixels(image)) for image in images]
    return Part(images, rows, labels, [f"{row}.png" for row in rows], pairs)


def counting() -> tuple[list[tuple[int, int]], Callable[[int, int], None]]:
    calls: list[tuple[int, int]] = []
    return calls, lambda done, total: calls.append((done, total))


def test_features_are_those_of_the_backbone_and_are_computed_once(tmp_path: Path, backbone: FrozenBackbone) -> None:
    store, part = FeatureStore(tmp_path), whole()
    calls, progress = counting()
    features = store.features(part, backbone, fingerprint="f", progress=progress)
    assert calls == [(64, COUNT), (128, COUNT), (COUNT, COUNT)]
    assert len(features) == COUNT
    assert features.width == backbone.width
    expected = np.concatenate([backbone.features(batch) for batch in part.batches(64)])
    np.testing.assert_array_equal(features.batch(np.arange(COUNT)), expected.astype(np.float32))
    again = FeatureStore(tmp_path).features(part, make_backbone(), fingerprint="f", progress=pytest.fail)
    np.testing.assert_array_equal(np.concatenate([batch for _, batch in again.batches(40)]), expected)


def test_any_part_in_any_order_finds_its_rows(tmp_path: Path, backbone: FrozenBackbone) -> None:
    store, part = FeatureStore(tmp_path), whole()
    expected = store.features(part, backbone, fingerprint="f").batch(np.arange(COUNT))
    rows = np.array([7, 3, 140, 3])
    found = store.features(part.subset(rows), backbone, fingerprint="f", progress=pytest.fail)
    np.testing.assert_array_equal(found.batch(np.arange(4)), expected[rows])


def test_missing_rows_are_added_and_repeated_images_computed_once(tmp_path: Path, backbone: FrozenBackbone) -> None:
    store, part = FeatureStore(tmp_path), whole()
    store.features(part.subset(np.array([5, 6, 6, 5])), backbone, fingerprint="f")
    calls, progress = counting()
    features = store.features(part, backbone, fingerprint="f", progress=progress)
    assert calls[-1] == (COUNT - 2, COUNT - 2)
    assert features.stored.shape == (COUNT, backbone.width)
    np.testing.assert_allclose(features.batch(np.arange(4)), backbone.features(part.batch(np.arange(4))), rtol=1e-3)


def test_weights_size_data_and_white_level_are_entries_of_their_own(tmp_path: Path, backbone: FrozenBackbone) -> None:
    store, part = FeatureStore(tmp_path), whole(3)
    store.features(part, backbone, fingerprint="f")
    store.features(part, backbone, fingerprint="other")
    store.features(part, backbone, fingerprint="f", white_level=4095)
    store.features(part, make_backbone(normalisation="group"), fingerprint="f")
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 4


def test_features_of_masked_images_are_never_those_of_whole_ones(tmp_path: Path, backbone: FrozenBackbone) -> None:
    """The rows are found by the images as they are packed, which are the same with and without a mask."""
    store, masked = FeatureStore(tmp_path), prepared(bright_discs(4), "mask")
    plain = store.features(replace(masked, prepare=None), backbone, fingerprint="f").batch(np.arange(4))
    found = store.features(masked, backbone, fingerprint="f").batch(np.arange(4))
    np.testing.assert_allclose(found, backbone.features(masked.batch(np.arange(4))), rtol=1e-3)
    assert not np.allclose(found, plain, rtol=1e-3)
    again = store.features(masked, backbone, fingerprint="f", progress=pytest.fail).batch(np.arange(4))
    np.testing.assert_array_equal(again, found)


def bright_discs(count: int) -> Part:
    """Return images of a bright disc on noise, which a mask changes."""
    away = np.hypot(*(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2))
    images = np.random.default_rng(0).integers(0, 60, (count, SIZE, SIZE, 3), dtype=np.uint8)
    images[:, away < SIZE / 4] = (200, 40, 160)
    return Part(images, np.arange(count), np.zeros(count, np.int64), [f"{row}.png" for row in range(count)])


def test_random_weights_are_the_same_in_each_process(backbone: FrozenBackbone) -> None:
    assert make_backbone().identity == backbone.identity


def test_a_baseline_and_an_image_size_that_does_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="majority-class is a baseline without features"):
        make_backbone(backbone="majority-class")
    with pytest.raises(ModelError, match="image_size is 16, but test_convnext takes no such image"):
        make_backbone(backbone="test_convnext", image_size=16)


def test_the_least_recently_used_entries_make_room(tmp_path: Path, backbone: FrozenBackbone) -> None:
    part = whole(10)
    size = 10 * (2 * backbone.width + 16) + 500
    store = FeatureStore(tmp_path, most_bytes=2 * size)
    for fingerprint, used in (("old", 100), ("older", 50)):
        store.features(part, backbone, fingerprint=fingerprint)
        for manifest in tmp_path.glob("*/manifest.json"):
            if f'"{fingerprint}"' in manifest.read_text():
                os.utime(manifest, (used, used))
    store.features(part, backbone, fingerprint="old", progress=pytest.fail)  # a use
    store.features(part, backbone, fingerprint="new")
    assert sorted(text_of_entries(tmp_path)) == ["new", "old"]


def text_of_entries(folder: Path) -> list[str]:
    import json

    return [json.loads(manifest.read_text())["fingerprint"] for manifest in folder.glob("*/manifest.json")]


@pytest.mark.parametrize("damage", ["features.f16", "images.digests", "manifest.json"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, backbone: FrozenBackbone, damage: str) -> None:
    store, part = FeatureStore(tmp_path), whole(10)
    expected = store.features(part, backbone, fingerprint="f").batch(np.arange(10))
    (damaged,) = tmp_path.glob(f"*/{damage}")
    damaged.write_bytes(damaged.read_bytes()[:-3])
    np.testing.assert_array_equal(store.features(part, backbone, fingerprint="f").batch(np.arange(10)), expected)


def test_stopping_and_ctrl_c_leave_nothing_half_made(tmp_path: Path, backbone: FrozenBackbone) -> None:
    store, part = FeatureStore(tmp_path), whole()
    with pytest.raises(TrainingInterrupted):
        store.features(part, backbone, fingerprint="f", should_stop=iter([False, True]).__next__)

    def ctrl_c(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.features(part, backbone, fingerprint="f", progress=ctrl_c)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_one_line(tmp_path: Path, backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_store, "write_new_file", full)
    with pytest.raises(
        DataError, match=r"features of images cannot be written to .* \(No space left on device; .* free"
    ):
        FeatureStore(tmp_path).features(whole(10), backbone, fingerprint="f")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, backbone: FrozenBackbone) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/store cannot hold the features of images"):
        FeatureStore(tmp_path / "file" / "store").features(whole(3), backbone, fingerprint="f")


def test_of_several_at_once_one_computes(tmp_path: Path, backbone: FrozenBackbone) -> None:
    part = whole(70)
    calls, progress = counting()
    ask = lambda: FeatureStore(tmp_path).features(part, backbone, fingerprint="f", progress=progress)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [(64, 70), (70, 70)]


def test_a_killed_maker_leaves_no_lock_and_no_rubbish(tmp_path: Path, backbone: FrozenBackbone) -> None:
    code = f"""
import os, signal
from pathlib import Path
from hpo.models.feature_store import FeatureStore
from tests.hpo.models.test_feature_store import make_backbone, whole
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)
FeatureStore(Path({str(tmp_path)!r})).features(whole(), make_backbone(), fingerprint="f", progress=kill)
"""
    subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3])
    assert list(tmp_path.glob(".*.tmp"))
    FeatureStore(tmp_path).features(whole(), backbone, fingerprint="f")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_part_without_digests_is_known_by_its_pixels(tmp_path: Path, backbone: FrozenBackbone) -> None:
    part = replace(whole(10), digests=())
    features = FeatureStore(tmp_path).features(part, backbone, fingerprint="f")
    np.testing.assert_array_equal(features.batch(np.arange(10)), backbone.features(part.batch(np.arange(10))))


def test_damaged_weights_are_reported(backbone: FrozenBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = make_backbone()
    monkeypatch.setattr(broken._predictor, "logits", lambda _: np.full((1, 4), np.nan, np.float32))
    with pytest.raises(ModelError, match=r"features that are not finite: its weights \(random\) are damaged"):
        broken.features(np.zeros((1, SIZE, SIZE, 3), np.uint8))
