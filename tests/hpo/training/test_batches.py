from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
import torch

from hpo.augmentation.augmenter import Augmenter, build_augmenter
from hpo.augmentation.families import EXTRAS
from hpo.data.dataset import Part
from hpo.interruption import TrainingInterrupted
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.feeds import Feed, ResidentFeed, StreamedFeed, plain_feed
from hpo.training.batches import Augmented, AugmentedOnce, augments, training_feed, validation_feed
from hpo.training.runtime import Runtime
from search_spaces import TrialConfig

CPU = torch.device("cpu")
BATCHES = [np.array([3, 0]), np.array([5, 1, 4])]


class Noise:
    """Adds noise from the seed; refuses to be used by two threads."""

    def __init__(self) -> None:
        self.owner: int | None = None

    def __call__(self, images: np.ndarray, seed: int) -> np.ndarray:
        self.owner = self.owner or threading.get_ident()
        assert self.owner == threading.get_ident()
        return images ^ np.random.default_rng(seed).integers(0, 255, images.shape, dtype=np.uint8)

    def clone(self) -> Noise:
        return Noise()


class Broken(Noise):
    def __call__(self, images: np.ndarray, seed: int) -> np.ndarray:
        raise ValueError("an image that cannot be augmented")

    def clone(self) -> Broken:
        return self


class Recording(Noise):
    """Adds noise and records its seeds."""

    def __init__(self, seeds: list[int]) -> None:
        super().__init__()
        self.seeds = seeds

    def __call__(self, images: np.ndarray, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        return super().__call__(images, seed)

    def clone(self) -> Recording:
        return Recording(self.seeds)


@pytest.fixture
def part() -> Part:
    images = np.random.default_rng(0).integers(0, 255, (8, 4, 4, 3), dtype=np.uint8)
    return Part(images, np.array([7, 6, 5, 4, 3, 2]), np.zeros(6, dtype=np.int64), ["x"] * 6)


def augmented(part: Part, augmenter: Augmenter, *, seed: int = 1, threads: int = 1) -> StreamedFeed:
    return StreamedFeed(Augmented(part, augmenter, seed), CPU, threads=threads)


@pytest.mark.parametrize("feed", [plain_feed, ResidentFeed], ids=["streamed", "resident"])
def test_a_feed_yields_the_requested_rows(part: Part, feed: Callable[..., StreamedFeed | ResidentFeed]) -> None:
    batches = list(feed(part, CPU).epoch(BATCHES, 0))
    assert [batch.dtype for batch in batches] == [torch.uint8] * 2
    assert all(np.array_equal(batch, part.batch(rows)) for batch, rows in zip(batches, BATCHES, strict=True))


@pytest.mark.parametrize("feed", [plain_feed, ResidentFeed], ids=["streamed", "resident"])
@pytest.mark.parametrize("done", [0, 1, 2])
def test_finished_batches_are_left_out(part: Part, feed: Callable[..., StreamedFeed | ResidentFeed], done: int) -> None:
    batches = list(feed(part, CPU).epoch(BATCHES, 0, done))
    assert len(batches) == 2 - done
    assert all(np.array_equal(batch, part.batch(rows)) for batch, rows in zip(batches, BATCHES[done:], strict=True))


def test_finished_batches_are_not_augmented_and_the_others_are_unchanged(part: Part) -> None:
    seeds: list[int] = []
    whole = list(augmented(part, Recording(seeds)).epoch([np.array([0])] * 5, 3))
    rest = list(augmented(part, Recording(seeds)).epoch([np.array([0])] * 5, 3, 4))
    assert len(rest) == 1
    assert torch.equal(rest[0], whole[4])
    assert seeds[5:] == seeds[4:5]


def test_the_copy_to_the_device_can_be_stopped(part: Part) -> None:
    with pytest.raises(TrainingInterrupted):
        ResidentFeed(part, CPU, lambda: True)


def test_augmentation_depends_on_seed_epoch_and_batch_but_not_on_threads(part: Part) -> None:
    def epoch(threads: int, number: int, seed: int = 1) -> np.ndarray:
        feed = augmented(part, Noise(), seed=seed, threads=threads)
        return np.stack([batch.numpy() for batch in feed.epoch([np.array([0])] * 12, number)])

    alone = epoch(1, 0)
    assert np.array_equal(alone, epoch(4, 0))
    assert len({batch.tobytes() for batch in alone}) == 12
    assert not np.array_equal(alone, epoch(1, 1))
    assert not np.array_equal(alone, epoch(1, 0, seed=2))


def test_an_error_in_a_thread_is_raised_in_the_step(part: Part) -> None:
    feed = augmented(part, Broken(), threads=2)
    with pytest.raises(ValueError, match="cannot be augmented"):
        list(feed.epoch(BATCHES, 0))


def test_an_epoch_left_early_leaves_no_thread(part: Part) -> None:
    with closing(augmented(part, Noise(), threads=3).epoch([np.array([0])] * 40, 0)) as batches:
        next(batches)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.fixture
def hundred() -> Part:
    """Return 100 images of 32 pixels in a shuffled order."""
    images = np.random.default_rng(0).integers(0, 255, (120, 32, 32, 3), dtype=np.uint8)
    return Part(images, np.arange(119, 19, -1), np.zeros(100, dtype=np.int64), ["x"] * 100)


def everything(feed: Feed, rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([batch.numpy() for batch in feed.epoch(rows, 0)])


def changed(feed: Feed, part: Part) -> np.ndarray:
    """Return (n,) bool: rows that the feed changes."""
    return (everything(feed, [np.arange(len(part))]) != part.batch(np.arange(len(part)))).any(axis=(1, 2, 3))


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_alone_augments(config: Callable[..., TrialConfig], name: str) -> None:
    assert augments(config(**{name: 0.1}))
    assert not augments(config(**{name: 0.0}))


def test_families_augment_above_strength_0_and_mixing_does_not_count(config: Callable[..., TrialConfig]) -> None:
    assert augments(config(augmentation="flips", augmentation_strength=0.1))
    assert not augments(config(augmentation="flips", augmentation_strength=0))
    assert not augments(config(mixup=1.0, cutmix=1.0))


def test_training_batches_carry_the_views_of_a_consistency_loss(
    hundred: Part, config: Callable[..., TrialConfig]
) -> None:
    feed = training_feed(config(augmix=0.5, augmix_consistency=12), hundred, CPU, Runtime())
    images = everything(feed, [np.arange(6), np.arange(6, 10)])
    assert images.shape == (10, 3, 32, 32, 3)
    assert np.array_equal(images[:, 0], hundred.batch(np.arange(10)))


def test_validation_images_are_unchanged_by_default(hundred: Part, config: Callable[..., TrialConfig]) -> None:
    assert not changed(validation_feed(config(augmentation="flips"), hundred, CPU, Runtime()), hundred).any()


def test_validation_is_augmented_alike_for_every_configuration(
    hundred: Part, config: Callable[..., TrialConfig]
) -> None:
    """Trials are comparable only on the same validation images."""
    mild = config(augmentation="none", validation_augmented=0.7)
    wild = config(augmentation="corruption", augmentation_strength=1.0, gridmask=1.0, validation_augmented=0.7)
    first, second = (everything(validation_feed(c, hundred, CPU, Runtime()), [np.arange(100)]) for c in (mild, wild))
    assert np.array_equal(first, second)
    assert 50 < (first != hundred.batch(np.arange(100))).any(axis=(1, 2, 3)).sum() <= 70


def test_the_augmented_share_is_exact_and_a_larger_share_includes_a_smaller_one(
    hundred: Part, config: Callable[..., TrialConfig]
) -> None:
    some, more = (
        changed(StreamedFeed(AugmentedOnce(hundred, build_augmenter(config(cutout=1.0)), s), CPU, threads=1), hundred)
        for s in (0.3, 0.7)
    )
    assert some.sum() == 30
    assert more.sum() == 70
    assert more[some].all()


def test_augmented_validation_is_the_same_for_any_seed_epoch_batching_and_number_of_threads(
    hundred: Part, config: Callable[..., TrialConfig]
) -> None:
    chosen = config(augmentation="randaugment", validation_augmented=0.5)
    feeds = [
        validation_feed(chosen, hundred, CPU, Runtime(seed=seed, threads=threads)) for seed, threads in ((0, 1), (9, 3))
    ]
    whole = everything(feeds[0], [np.arange(100)])
    assert np.array_equal(whole, everything(feeds[1], np.array_split(np.arange(100), 7)))
    assert np.array_equal(whole, np.concatenate([batch.numpy() for batch in feeds[0].epoch([np.arange(100)], 5)]))


def test_validation_has_no_views(hundred: Part, config: Callable[..., TrialConfig]) -> None:
    chosen = config(augmix=0.5, augmix_consistency=12, validation_augmented=1.0)
    feed = validation_feed(chosen, hundred, CPU, Runtime())
    assert everything(feed, [np.arange(100)]).shape == (100, 32, 32, 3)


def test_the_part_itself_is_never_changed(hundred: Part) -> None:
    before = hundred.images.copy()
    AugmentedOnce(hundred, Noise(), 1.0)(np.arange(5), 0, 0)
    assert np.array_equal(hundred.images, before)


@pytest.mark.parametrize("compute_format", [ComputeFormat(), ComputeFormat("bf16", channels_last=False)], ids=str)
def test_normalisation_is_the_formula(compute_format: ComputeFormat) -> None:
    images = torch.randint(0, 256, (2, 5, 5, 3), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.2, 0.1)
    normalised = Normaliser(mean, std, CPU, compute_format)(images)
    expected = (images.double().permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(
        3, 1, 1
    )
    assert normalised.dtype == compute_format.dtype
    assert normalised.is_contiguous(memory_format=compute_format.memory_format)
    tolerance = 1e-5 if compute_format.precision == "fp32" else 0.05
    torch.testing.assert_close(normalised.double(), expected, atol=tolerance, rtol=tolerance)
