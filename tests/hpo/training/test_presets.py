"""Every preset trains: one short trial of its first point on a few small images, with a small network."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
import timm

from hpo.data.dataset import Part
from hpo.models.baselines import is_baseline
from hpo.training import FitData, Runtime, fit
from search_spaces import SearchSpace, TrialConfig, catalog

SIZE = 32
CLASSES = 3
SMALL = "test_resnet"
BIG = ("convnext", "efficientnetv2", "tf_efficientnetv2", "resnet18")
PRESETS = {space.name: space for space in catalog() if "backbone" in {*space.fixed, *space.open}}


def coloured(count: int) -> Part:
    """Return noisy images with the channel of their class brightened."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(count) % CLASSES)
    images = generator.integers(0, 120, (count, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return Part(images, np.arange(count), labels, [f"{row}.png" for row in range(count)])


DATA = FitData(coloured(24), coloured(12), CLASSES)


def short(space: SearchSpace) -> TrialConfig:
    """Return the first point of `space` with one epoch per phase, small images and a small backbone."""
    named = final(space)
    changes: dict[str, object] = {"image_size": SIZE, "epochs": max(1, len(named.phases)), "batch_size": 8}
    if named.oversample_to:
        changes["oversample_to"] = 10  # of 8 images of each class; its own 5,250 are for thousands of images
    if named.backbone.startswith(BIG):
        changes |= {"backbone": SMALL, "pretrained": False}
    return final(space.with_fixed(changes))


def final(space: SearchSpace) -> TrialConfig:
    return space.suggest(optuna.trial.FixedTrial(next(iter(space.enqueue_points()), {})))


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains_from_its_first_epoch_to_its_last(name: str) -> None:
    config = short(PRESETS[name])
    results = list(fit(config, DATA, Runtime(seed=0)))
    assert [result.epoch for result in results] == list(range(1, config.epochs + 1))
    assert [result.last for result in results] == [False] * (len(results) - 1) + [True]
    assert results[-1].logits is not None
    assert results[-1].logits.shape == (12, CLASSES)
    assert (results[-1].facts["trainable_parameters"] == 0) == is_baseline(config.backbone)
    if not is_baseline(config.backbone):
        assert all(math.isfinite(result.train_loss) for result in results)


@pytest.mark.parametrize("name", PRESETS)
def test_the_backbones_that_a_preset_names_exist_and_have_their_weights(name: str) -> None:
    space = PRESETS[name]
    open_ones = [variant.choices for variant in space.dimensions.get("backbone", ())]
    names = [choice for choices in open_ones for choice in choices] or [space.fixed["backbone"]]
    if space.fixed.get("pretrained", True):
        assert set(names) <= set(timm.list_pretrained())
    else:
        assert all(timm.is_model(backbone) or is_baseline(backbone) for backbone in names)
