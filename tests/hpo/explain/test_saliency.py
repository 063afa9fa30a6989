"""The heat maps of a loaded bundle: shape, scale, class, and the mean over an ensemble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from hpo.bundle.model import Model, Network
from hpo.errors import DataError, ModelError
from hpo.explain import Saliency, saliency
from hpo.explain.saliency import BATCH
from hpo.models.built_model import build_model
from search_spaces import TrialConfig

from .conftest import CLASSES, SIZE, Blind, toy

STEPS = (0.5,) * 3


@dataclass
class Ensemble:
    """What `saliency` asks of a model."""

    networks: tuple[Network, ...]
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    image_size: int = SIZE
    device: str = "cpu"


def test_the_shape_and_range_of_the_maps(model: Model, images: np.ndarray) -> None:
    heat = saliency(model, images)
    assert heat.shape == images.shape[:3]
    assert heat.dtype == np.float32
    highest = heat.max(axis=(1, 2))
    assert heat.min() >= 0
    assert ((highest == 1) | (highest == 0)).all()
    assert highest.any()


def test_no_images_give_no_maps(model: Model, images: np.ndarray) -> None:
    assert saliency(model, images[:0]).shape == (0, SIZE, SIZE)
    assert saliency(model, images[:0], classes=[]).shape == (0, SIZE, SIZE)


def test_the_default_class_is_the_predicted_one(model: Model, images: np.ndarray) -> None:
    predicted = [prediction.index for prediction in model.predict(images)]
    assert np.array_equal(saliency(model, images), saliency(model, images, classes=predicted))
    others = [(number + 1) % len(CLASSES) for number in predicted]
    assert not np.array_equal(saliency(model, images), saliency(model, images, classes=others))


def test_the_maps_do_not_depend_on_the_batches(model: Model) -> None:
    images = np.random.default_rng(2).integers(0, 256, (BATCH + 2, SIZE, SIZE, 3), dtype=np.uint8)
    classes = [number % len(CLASSES) for number in range(len(images))]
    whole = saliency(model, images, classes=classes)
    alone = np.concatenate([saliency(model, images[[i]], classes=[classes[i]]) for i in (0, BATCH - 1, BATCH + 1)])
    assert np.allclose(whole[[0, BATCH - 1, BATCH + 1]], alone, atol=1e-4)


def test_the_model_is_unchanged(model: Model, images: np.ndarray) -> None:
    before = model.logits(images)
    saliency(model, images)
    assert np.array_equal(model.logits(images), before)
    assert not any(module._forward_hooks for module in model.network.modules())
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_negative_evidence_gives_no_heat(images: np.ndarray) -> None:
    network = toy()
    with torch.no_grad():
        network[-1].weight[0] = 1.0  # after a ReLU all channels speak for class 0, none for class 1
        network[-1].weight[1] = -1.0
    explain = Saliency.of([Network(network, STEPS, STEPS, 1.0)], SIZE, "cpu")
    assert (explain(images, [0] * len(images)).max(axis=(1, 2)) == 1).all()
    assert not explain(images, [1] * len(images)).any()


def test_an_ensemble_is_the_weighted_mean_of_its_members(images: np.ndarray) -> None:
    torch.manual_seed(5)
    one, other = Network(toy(), STEPS, STEPS, 0.75), Network(toy(Blind()), (0.4,) * 3, (0.3,) * 3, 0.25)
    classes = [0, 1, 2, 3, 0]
    alone = [Saliency.of([network._replace(weight=1.0)], SIZE, "cpu")(images, classes) for network in (one, other)]
    mean = 0.75 * alone[0] + 0.25 * alone[1]
    highest = mean.max(axis=(1, 2), keepdims=True)
    expected = mean / np.where(highest > 0, highest, 1)
    assert not np.allclose(alone[0], alone[1])
    found = saliency(Ensemble((one, other)), images, classes=classes)  # type: ignore[arg-type]
    assert np.allclose(found, expected, atol=1e-6)


def test_each_network_uses_its_own_normalisation(images: np.ndarray) -> None:
    seen: list[torch.Tensor] = []
    network = toy()
    explain = Saliency.of([Network(network, (0.4, 0.5, 0.6), (0.3, 0.2, 0.1), 1.0)], SIZE, "cpu", fine=False)
    handle = network.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    explain(images, [0] * len(images))
    handle.remove()
    expected = (images / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.3, 0.2, 0.1])
    assert np.allclose(seen[0].permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("backbone", ["cnn3", "simplecnn", "efficientnetlite", "deepefficientnet"])
def test_networks_that_timm_lacks_are_supported(backbone: str, images: np.ndarray) -> None:
    torch.manual_seed(0)
    config = TrialConfig(backbone=backbone, pretrained=False, image_size=SIZE)
    network = build_model(config, len(CLASSES)).model
    heat = Saliency.of([Network(network, STEPS, STEPS, 1.0)], SIZE, "cpu")(images, [0, 1, 2, 0, 1])
    assert heat.shape == images.shape[:3]
    assert heat.any()


def test_a_baseline_is_refused(images: np.ndarray) -> None:
    config = TrialConfig(backbone="majority-class", pretrained=False, image_size=SIZE)
    network = build_model(config, len(CLASSES)).model
    with pytest.raises(ModelError, match="nothing to explain"):
        Saliency.of([Network(network, STEPS, STEPS, 1.0)], SIZE, "cpu")


@pytest.mark.parametrize(
    ("change", "classes", "message"),
    [
        (
            lambda images: images[:, :16, :16],
            None,
            r"images are uint8 \(5, 16, 16, 3\), but must be uint8 \(n, 32, 32, 3",
        ),
        (lambda images: images[0], None, r"images are uint8 \(32, 32, 3\)"),
        (lambda images: images / 255, None, "images are float64"),
        (lambda images: images, [0, 1], "2 classes are given for 5 images"),
        (lambda images: images, [0, 1, 2, 3, 0], "class 3 is asked for, but the model's are 0 to 2"),
        (lambda images: images, [0, -1, 2, 1, 0], "class -1 is asked for"),
    ],
)
def test_invalid_images_and_classes_are_refused(model: Model, images: np.ndarray, change, classes, message) -> None:
    with pytest.raises(DataError, match=message):
        saliency(model, change(images), classes=classes)


def test_the_network_stays_in_evaluation_mode(images: np.ndarray) -> None:
    network = nn.Sequential(nn.Dropout2d(0.5), *toy())
    explain = Saliency.of([Network(network.train(), STEPS, STEPS, 1.0)], SIZE, "cpu")
    assert np.array_equal(explain(images, [0] * 5), explain(images, [0] * 5))
