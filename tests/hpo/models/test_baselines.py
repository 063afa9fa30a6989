"""Baselines: models without parameters to train."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hpo.errors import ModelError
from hpo.models import build_model, check_trainable
from hpo.models.baselines import BASELINES, Baseline, is_baseline
from hpo.models.compute_format import ComputeFormat, Normaliser
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
CPU = torch.device("cpu")


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Return images (count, 3, 8, 8) in [0, 1] with the values of uint8 images."""
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    return pixels / 255


def built(config: Make, name: str, classes: int = 4) -> Baseline:
    model = build_model(config(backbone=name), classes).model
    assert isinstance(model, Baseline)
    return model


def test_baselines_are_recognised_by_their_names() -> None:
    assert [is_baseline(name) for name in (*BASELINES, "cnn3")] == [True, True, False]


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_is_a_classifier_without_parameters(config: Make, name: str) -> None:
    found = check_trainable(config(backbone=name), 4)
    assert (found.parameters, found.trainable, found.weights) == (0, 0, None)
    assert built(config, name).train()(pictures(5)).shape == (5, 4)
    assert list(built(config, name).state_dict()) == ["priors"]


@pytest.mark.parametrize("name", BASELINES)
def test_class_frequencies_are_in_the_state_dict(config: Make, name: str) -> None:
    model = built(config, name)
    model.learn_priors(np.array([2, 2, 2, 0]))
    again = build_model(config(backbone=name, pretrained=True), 4, initialise=False).model
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(pictures(3)), model(pictures(3)))


def test_the_majority_class_is_as_probable_as_it_was_common(config: Make) -> None:
    model = built(config, "majority-class")
    assert model(pictures(1)).softmax(1)[0].tolist() == pytest.approx([0.25] * 4)
    model.learn_priors(np.array([1, 2, 2, 2, 0, 2]))
    logits = model(pictures(3))
    assert logits.argmax(1).tolist() == [2, 2, 2]
    assert logits.softmax(1)[0].tolist() == pytest.approx([0.2, 0.2, 0.5, 0.1])


def test_a_random_guess_depends_on_the_image_alone(config: Make) -> None:
    model, images = built(config, "random-guess"), pictures(20)
    guesses = model(images)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(model(images[order]), guesses[order])
    assert torch.equal(model(images.contiguous(memory_format=torch.channels_last)), guesses)
    assert torch.equal(torch.cat([model(image[None]) for image in images]), guesses)
    changed = images.clone()
    changed[:, 0, 0, 0] = (changed[:, 0, 0, 0] + 1 / 255) % 1
    assert not (model(changed) == guesses).any()


def test_a_random_guess_of_halves_is_that_of_floats(config: Make) -> None:
    built_model = build_model(config(backbone="random-guess"), 4)
    pixels = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    full, half = (
        Normaliser(built_model.mean, built_model.std, CPU, ComputeFormat(precision))(pixels)
        for precision in ("fp32", "fp16")
    )
    assert torch.equal(built_model.model(full), built_model.model(half))


def test_random_guesses_are_even_and_differ_between_images(config: Make) -> None:
    logits = built(config, "random-guess", classes=8)(pictures(4000))
    counts = torch.bincount(logits.argmax(1), minlength=8)
    # Chi-squared of 7 degrees of freedom is below 24.3 in 999 cases of 1000.
    assert ((counts - 500) ** 2 / 500).sum() < 24.3
    assert len(logits.unique(dim=0)) == 4000
    assert 0 <= logits.min() < logits.max() <= 1


@pytest.mark.parametrize("name", BASELINES)
def test_settings_that_a_baseline_lacks_are_refused(config: Make, name: str) -> None:
    with pytest.raises(ModelError, match=rf"{name} is a baseline .*--set pretrained=false"):
        build_model(config(backbone=name, pretrained=True), 4)
    with pytest.raises(ModelError, match=rf"normalisation is 'group', but {name} is a baseline"):
        build_model(config(backbone=name, normalisation="group"), 4)


def test_a_name_similar_to_a_baseline_s_gets_a_hint(config: Make) -> None:
    with pytest.raises(ModelError, match="near it: majority-class"):
        build_model(config(backbone="majority_class"), 4)
