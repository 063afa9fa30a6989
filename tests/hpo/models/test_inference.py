from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from hpo.models import Predictor, build_model
from hpo.models.compute_format import ComputeFormat, Normaliser
from hpo.models.inference import compute_outputs
from hpo.training import FitData
from search_spaces import TrialConfig

CPU = torch.device("cpu")
Make = Callable[..., TrialConfig]


@pytest.mark.parametrize("training", [True, False])
def test_a_part_and_its_batches_give_the_same_logits_whatever_the_mode(
    config: Make, data: FitData, training: bool
) -> None:
    built = build_model(config(dropout=0.5), data.classes)
    built.model.train(training)
    images = data.train.batch(np.arange(25))
    predictor = Predictor(built.model, mean=built.mean, std=built.std)
    whole = predictor.logits(data.train, batch_size=7)
    batches = predictor.logits(images[i : i + 4] for i in range(0, 25, 4))
    assert whole.shape == (25, data.classes)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, batches, atol=1e-5)
    assert not built.model.training


def test_read_only_images_are_accepted(config: Make) -> None:
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    images.flags.writeable = False
    built = build_model(config(), 3)
    assert Predictor(built.model, mean=built.mean, std=built.std).logits([images]).shape == (2, 3)


def test_no_images_give_no_logits(config: Make) -> None:
    built = build_model(config(), 3)
    assert len(Predictor(built.model, mean=built.mean, std=built.std).logits([])) == 0


def test_logits_are_those_of_a_network_that_is_placed_anew_bit_for_bit(config: Make, data: FitData) -> None:
    built = build_model(config(dropout=0.5), data.classes)
    images, form = data.train.batch(np.arange(9)), ComputeFormat("fp32")
    network = form.place(copy.deepcopy(built.model), CPU).eval()
    normalise = Normaliser(built.mean, built.std, CPU, form)
    with torch.inference_mode():
        expected = torch.cat([network(normalise(torch.from_numpy(some))) for some in (images[:4], images[4:])]).numpy()
    predictor = Predictor(built.model, mean=built.mean, std=built.std)
    for _ in range(2):
        assert np.array_equal(predictor.logits([images[:4], images[4:]]), expected)


def test_a_call_moves_nothing_and_leaves_the_mode_alone(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_model(config(), 3)
    predictor = Predictor(built.model, mean=built.mean, std=built.std)
    before = {name: tensor.data_ptr() for name, tensor in built.model.state_dict(keep_vars=True).items()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was placed when the predictor was made")

    for name in ("to", "_apply", "train"):
        monkeypatch.setattr(torch.nn.Module, name, refuse)
    predictor.logits([np.zeros((2, 32, 32, 3), dtype=np.uint8)])
    assert {name: tensor.data_ptr() for name, tensor in built.model.state_dict(keep_vars=True).items()} == before


def test_the_mode_is_restored_after_an_error() -> None:
    network = torch.nn.Linear(2, 1).train()
    with pytest.raises(RuntimeError, match="shape"):
        compute_outputs(network, [torch.zeros(1, 3)], ComputeFormat())
    assert network.training
