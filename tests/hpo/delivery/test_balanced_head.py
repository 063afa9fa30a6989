"""The last layer trained once more: what is weighed how, what the penalty and the priors do, and the whole network."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from hpo.bundle.manifest import HeadChange
from hpo.delivery.balanced_head import Head, HeadImages, Layer, head_changes, retrained, shifted, uneven
from hpo.delivery.validation_images import predict_parts
from hpo.models.built_model import build_model


def given_images(weight: float = 0.0) -> HeadImages:
    """90 images of class 0 and 10 of class 1, of which every tenth is altered."""
    rng = np.random.default_rng(0)
    labels = (np.arange(100) >= 90).astype(np.int64)
    features = rng.normal(labels[:, None] - 0.5, 1.0, (100, 4)).astype(np.float32)
    altered = (np.arange(100) % 10 == 0) & (weight > 0)
    return HeadImages(features, labels, altered, weight, np.array([90, 10]))


def layer() -> Layer:
    return Layer(torch.zeros(2, 4), torch.zeros(2))


def test_each_class_weighs_the_same_or_each_image_does() -> None:
    images = given_images(weight=0.25)
    for balanced in (False, True):
        weights = images.weights(balanced=balanced).numpy()
        assert weights.sum() == pytest.approx(1)
        assert weights[images.altered].sum() == pytest.approx(0.25)
    clean = ~images.altered
    by_class = [weights[clean & (images.labels == label)].sum() for label in (0, 1)]
    assert by_class == [pytest.approx(0.375), pytest.approx(0.375)]


def test_a_layer_is_trained_and_a_large_penalty_keeps_it() -> None:
    images = given_images()
    balanced = images.weights(balanced=True)
    found = retrained(layer(), images, balanced, 1e-4)
    right = found.logits(images.features).argmax(axis=1) == images.labels
    assert right[images.labels == 1].mean() > 0.7
    held = retrained(layer(), images, balanced, 1e6)
    assert float(held.weight.abs().max()) < 1e-3
    assert torch.equal(layer().weight, torch.zeros(2, 4)), "the layer that is given stays as it is"


def test_priors_make_the_rare_class_likelier() -> None:
    found = shifted(layer(), np.array([90, 10]), 1.0)
    torch.testing.assert_close(found.bias[1] - found.bias[0], torch.tensor(np.log(9.0), dtype=torch.float32))
    torch.testing.assert_close(shifted(layer(), np.array([90, 10]), 0.0).bias, torch.zeros(2))


def test_priors_are_tried_for_uneven_classes_alone() -> None:
    assert uneven(np.array([90, 10]))
    assert not uneven(np.array([11, 10]))
    uneven_images = given_images()
    even = HeadImages(uneven_images.features, uneven_images.labels, uneven_images.altered, 0.0, np.array([50, 50]))
    assert {one.method for one in head_changes("accuracy", uneven_images)} == {"retrained", "priors"}
    assert {(one.method, one.balanced) for one in head_changes("macro_f1", even)} == {("retrained", True)}


@pytest.mark.parametrize("hidden", [0, 1])
def test_a_network_with_another_last_layer_gives_the_logits_of_that_layer(manifest, dataset, cache, hidden) -> None:
    torch.manual_seed(0)
    given = manifest.model_copy(update={"config": manifest.config.replace(head_layers=hidden, head_units=8)})
    network = build_model(given.config, len(given.classes)).model
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    head = Head(given, tensors, "cpu")
    images = head.images(dataset.train, cache, 0.5, len(given.classes))
    assert images.altered.any()
    assert images.counts.sum() == len(dataset.train)
    changed = head.changed(HeadChange(method="retrained", strength=0.01), images)
    after = head.with_layer(changed)
    network.load_state_dict(after)
    expected = predict_parts(network, given.preprocessing, "cpu", [dataset.val])
    np.testing.assert_allclose(changed.logits(head.features([dataset.val])), expected, atol=1e-4)
    differ = {name for name in tensors if not torch.equal(tensors[name], after[name])}
    assert differ == {name for name in tensors if name.startswith(f"head.{2 * hidden + hidden + 1}.")}
    assert safetensors.torch.save(after)
