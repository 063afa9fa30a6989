from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpo.errors import InfeasibleError
from hpo.models import build_model
from hpo.models.compute_format import ComputeFormat
from hpo.training import micro_batch as microbatch
from hpo.training.micro_batch import MicroBatch, Workload, images_that_fit, workload
from hpo.training.tuning import NAME
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
WORK = Workload("resnet50", 224, "3 of 17 blocks", ComputeFormat("bf16"), torch.device("cpu"), "a device with 8.0 GiB")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set how many bytes are free."""
    return lambda count: monkeypatch.setattr(microbatch, "free_memory", lambda _: count)


def found(work: Workload, cache: Path | None, images: int, size: int) -> MicroBatch:
    """Simulate a run whose batches of `images` fit in pieces of at most `size`."""
    run = MicroBatch(work, cache)
    run.begin_step()
    while run.size is None or run.size > size:
        run.halve(images, 1, "full")
    run.record_success()
    return run


def begun(work: Workload, cache: Path | None) -> int | None:
    run = MicroBatch(work, cache)
    run.begin_step()
    return run.size


def test_a_size_is_stored_for_runs_of_the_same_kind(tmp_path: Path, free: Callable[[int], None]) -> None:
    free(1000)
    assert begun(WORK, tmp_path) is None
    found(WORK, tmp_path, images=64, size=16)
    assert begun(WORK, tmp_path) == 16
    others = {"backbone": "resnet18", "image_size": 96, "trained": "17 of 17 blocks", "compute_format": ComputeFormat()}
    for name, value in {**others, "machine": "a device with 16.0 GiB"}.items():
        assert begun(replace(WORK, **{name: value}), tmp_path) is None


def test_a_size_that_failed_is_not_stored(tmp_path: Path) -> None:
    run = MicroBatch(WORK, tmp_path)
    run.begin_step()
    run.halve(64, 1, "full")
    assert begun(WORK, tmp_path) is None


def test_a_size_is_written_once(tmp_path: Path) -> None:
    run = found(WORK, tmp_path, images=64, size=16)
    (tmp_path / NAME).unlink()
    run.record_success()
    assert not (tmp_path / NAME).exists()


def test_without_a_cache_nothing_is_stored() -> None:
    assert found(WORK, None, images=64, size=16).size == 16
    assert begun(WORK, None) is None


def test_more_free_memory_means_more_images(tmp_path: Path, free: Callable[[int], None]) -> None:
    """A size found while little memory was free is replaced later."""
    free(1000)
    found(WORK, tmp_path, images=64, size=8)
    free(1100)
    assert begun(WORK, tmp_path) == 8
    free(4000)
    assert begun(WORK, tmp_path) == 32
    free(500)
    assert begun(WORK, tmp_path) == 8


def test_a_larger_size_that_fails_is_replaced(tmp_path: Path, free: Callable[[int], None]) -> None:
    free(1000)
    found(WORK, tmp_path, images=64, size=8)
    free(4000)
    assert found(WORK, tmp_path, images=64, size=16).size == 16
    assert begun(WORK, tmp_path) == 16


@pytest.mark.parametrize(("now", "images"), [(10, 12), (100, 12), (124, 12), (150, 18), (1000, 120)])
def test_images_grow_with_the_memory(now: int, images: int) -> None:
    assert images_that_fit(12, 100, now) == images


def test_a_run_that_resumes_keeps_its_size(tmp_path: Path) -> None:
    found(WORK, tmp_path, images=64, size=16)
    for size in (None, 4):
        run = MicroBatch(WORK, tmp_path)
        run.resume(size)
        run.begin_step()
        assert run.size == size


def test_halving_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        MicroBatch(WORK, None).halve(25, 1, "full")
    assert caplog.messages == [
        "resnet50 at 224 px on a device with 8.0 GiB: out of memory with 25 images at a time; continuing with 13"
    ]


@pytest.mark.parametrize(
    ("images", "fewest", "sizes", "last"),
    [(25, 1, [13, 7, 4, 2, 1], "1 image"), (6, 2, [3, 2], "2 images"), (5, 2, [3], "3 images"), (1, 1, [], "1 image")],
)
def test_a_piece_that_cannot_be_halved_is_infeasible(images: int, fewest: int, sizes: list[int], last: str) -> None:
    run = MicroBatch(WORK, None)
    for size in sizes:
        run.halve(images, fewest, "full")
        assert run.size == size
    with pytest.raises(InfeasibleError) as ended:
        run.halve(images, fewest, "tried to allocate 3 GiB")
    assert ended.value.reason == (
        "resnet50 at 224 px on a device with 8.0 GiB: a step does not fit into the memory, "
        f"not even with {last}: tried to allocate 3 GiB"
    )


@pytest.mark.parametrize(
    ("depth", "on_features", "trained"),
    [
        (1.0, False, "5 of 5 blocks"),
        (0.3, False, "2 of 5 blocks"),
        (0.0, False, "0 of 5 blocks"),
        (0.0, True, "head on features"),
    ],
)
def test_trainable_blocks_are_counted(config: Make, depth: float, on_features: bool, trained: str) -> None:
    settings = config(unfreeze_depth=depth)
    work = workload(settings, build_model(settings, 3).model, ComputeFormat(), on_features=on_features)
    assert work.trained == trained
    assert "GiB" in work.machine
    assert work.key.startswith("micro-batch | test_resnet | 32 px | ")


@pytest.mark.parametrize(
    ("start", "trained"),
    [
        ("head", "2 of 5 blocks"),
        ("middle", "2 of 5 blocks, gradients through 4"),
        ("stem", "2 of 5 blocks, gradients through 5"),
    ],
)
def test_first_blocks_take_more_memory_than_the_last_ones(config: Make, start: str, trained: str) -> None:
    settings = config(unfreeze_depth=0.3, unfreeze_from=start)
    work = workload(settings, build_model(settings, 3).model, ComputeFormat(), on_features=False)
    assert work.trained == trained


def test_views_of_an_image_are_another_workload(config: Make) -> None:
    plain, views = config(augmix=1.0), config(augmix=1.0, augmix_consistency=12.0)
    model = build_model(plain, 3).model
    keys = {workload(settings, model, ComputeFormat(), on_features=False).key for settings in (plain, views)}
    assert len(keys) == 2
