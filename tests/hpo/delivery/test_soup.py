"""A soup is one model with the mean of weights and its own statistics, never worse than its best ingredient."""

import weakref

import numpy as np
import pytest
import safetensors.torch
import torch

import hpo
from hpo.bundle.bundle import read_bundle
from hpo.bundle.evaluate import evaluate
from hpo.cli.delivery_text import joined_lines
from hpo.delivery.ensemble_candidates import ensemble_candidates
from hpo.delivery.soup import SoupSearch, open_images, soup, soupable, write_soup
from hpo.delivery.weight_averages import WeightAverages, mean_of_weights
from hpo.errors import BundleError, DataError
from hpo.evaluation.calibration import held_out, reliability

from .conftest import CONFIG, add_trial, draw, keep


@pytest.fixture
def recipe(study, store):
    """Return the manifest of the trials."""
    return ensemble_candidates(study, store, 10).found[0].manifest


@pytest.fixture
def averages(recipe, trained, dataset):
    return WeightAverages(recipe, lambda number: trained[number].weights, dataset, "cpu")


@pytest.fixture
def written(study, store, dataset, tmp_path):
    """Return a soup of trials 0 and 2, and the lines that were reported."""
    calls = []
    search = SoupSearch(soupable(ensemble_candidates(study, store, 10)), dataset, "cpu", calls.append)
    return write_soup(search, 0, (0, 2), tmp_path / "soup"), calls


def test_the_mean_is_of_each_tensor_and_counts_are_the_first_models():
    some = [
        {"w": torch.tensor([1.0, 3.0]), "n": torch.tensor(5)},
        {"w": torch.tensor([2.0, 5.0]), "n": torch.tensor(9)},
    ]
    found = mean_of_weights(some).tensors
    assert found["w"].tolist() == [1.5, 4.0]
    assert found["n"].item() == 5
    assert some[0]["w"].tolist() == [1.0, 3.0], "the models stay as they are"


def test_one_model_at_most_beside_the_mean_is_in_memory():
    given, alive = [], []

    def models():
        for number in range(5):
            tensor = torch.full((2,), float(number))
            given.append(weakref.ref(tensor))
            yield {"w": tensor}
            del tensor
            alive.append(sum(one() is not None for one in given))

    assert mean_of_weights(models()).tensors["w"].tolist() == [2.0, 2.0]
    assert max(alive) == 1


def test_the_mean_of_a_model_with_itself_is_the_model(recipe, trained, dataset):
    one = trained[0]
    found = WeightAverages(recipe, lambda number: one.weights, dataset, "cpu")
    assert np.allclose(found.logits((0, 1)), one.logits, atol=1e-4)
    mine, theirs = safetensors.torch.load(found.weights((0, 1))), safetensors.torch.load(one.weights)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_statistics_are_those_of_the_mean_over_the_training_images(averages, recipe, trained, dataset):
    found = safetensors.torch.load(averages.weights((0, 1)))
    kernel = found["backbone.conv_stem.weight"]
    images = torch.from_numpy(dataset.train.batch(np.arange(len(dataset.train))))
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (recipe.preprocessing.mean, recipe.preprocessing.std)
    )
    inputs = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    features = torch.nn.functional.conv2d(inputs, kernel, stride=2, padding=1)
    assert torch.allclose(found["backbone.bn1.running_mean"], features.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(found["backbone.bn1.running_var"], features.var((0, 2, 3)), rtol=1e-3)
    states = [safetensors.torch.load(one.weights) for one in trained[:2]]
    assert torch.allclose(kernel, mean_of_weights(states).tensors["backbone.conv_stem.weight"])


def test_statistics_that_training_left_alone_stay(recipe, trained, dataset):
    first, second = (safetensors.torch.load(one.weights) for one in trained[:2])
    frozen = [name for name in first if name.startswith("backbone.bn1.")]
    second |= {name: first[name] for name in frozen}
    models = [safetensors.torch.save(state) for state in (first, second)]
    found = safetensors.torch.load(WeightAverages(recipe, models.__getitem__, dataset, "cpu").weights((0, 1)))
    assert all(torch.equal(found[name], first[name]) for name in frozen)
    moved = "backbone.blocks.0.0.bn1.running_var"
    assert not torch.equal(found[moved], mean_of_weights([first, second]).tensors[moved])


def test_the_order_of_ingredients_does_not_matter_and_no_mean_is_computed_twice(recipe, trained, dataset):
    tried = []
    found = WeightAverages(
        recipe,
        lambda number: trained[number].weights,
        dataset,
        "cpu",
        on_predicted=lambda which, _: tried.append(which),
    )
    assert np.array_equal(found.logits((2, 0)), found.logits((0, 2)))
    assert tried == [(0, 2)]
    assert found.weights((2, 0)) == found.weights((0, 2))


def test_a_soup_is_a_bundle_of_one_model(written, tmp_path, images, cache):
    result, calls = written
    found = read_bundle(tmp_path / "soup")
    assert found.manifest == result.manifest
    assert (found.manifest.stage, found.manifest.ingredients, found.manifest.members) == ("soup", (0, 2), ())
    model = hpo.load(tmp_path / "soup", device="cpu")
    assert len(model.networks) == 1
    measured = evaluate(model, images, cache=cache, split="val")
    assert measured.report.confusion == tuple(map(tuple, found.metrics["validation"]["confusion"]))
    assert measured.report.loss == pytest.approx(found.metrics["validation"]["loss"], abs=1e-4)
    apart = reliability(found.validation.labels, held_out(*found.validation))
    measured = result.manifest.calibration.held_out
    assert measured.nll != pytest.approx(apart.nll), "its ingredients are to be chosen without the image as well"
    assert calls[0].startswith("mean of trials 0, 2: validation accuracy ")
    assert "soup of 2 trials of study colours: 0, 2" in joined_lines("soup", result)[0]


def test_a_greedy_soup_is_never_worse_than_the_best_trial(study, store, dataset, tmp_path):
    result = soup(
        soupable(ensemble_candidates(study, store, 10)), dataset, tmp_path / "soup", on_line=lambda line: None
    )
    assert result.validation.joined >= result.validation.best
    stage = read_bundle(tmp_path / "soup").manifest.stage
    assert stage == ("soup" if result.manifest.ingredients else "exported")


def test_another_architecture_is_left_out(study, store, trained, dataset):
    wider = trained[0].config.replace(head_layers=1)
    keep(store, add_trial(study, wider, trained[0].facts, value=0.1), trained[0], dataset.val.labels)
    found = soupable(ensemble_candidates(study, store, 10))
    assert len(found.found) == 3
    assert found.left_out == ("trial 3: another architecture than the best trial's",)


def test_a_best_trial_alone_in_its_architecture_makes_no_soup(study, store, trained, dataset):
    wider = CONFIG.replace(head_layers=1)
    keep(store, add_trial(study, wider, trained[0].facts, value=1.0), trained[0], dataset.val.labels)
    with pytest.raises(BundleError, match="trial 3 is alone in its architecture; trials 0, 1, 2: another"):
        soupable(ensemble_candidates(study, store, 10))


def test_other_images_are_refused(study, store, cache, images, tmp_path):
    found = ensemble_candidates(study, store, 10)
    assert open_images(found, images, cache).fingerprint == found.spec.data_fingerprint
    with pytest.raises(DataError, match="study 'colours' was made with other images than"):
        open_images(found, draw(tmp_path / "other", 8, seed=9), cache)
