from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hpo.models import build_model, predict_logits
from hpo.models.compute_format import ComputeFormat
from hpo.models.inference import outputs
from hpo.training import FitData
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


@pytest.mark.parametrize("training", [True, False])
def test_a_part_and_its_batches_give_the_same_logits_whatever_the_mode(
    config: Make, data: FitData, training: bool
) -> None:
    built = build_model(config(dropout=0.5), data.classes)
    built.model.train(training)
    images = data.train.batch(np.arange(25))
    settings = {"mean": built.mean, "std": built.std}
    whole = predict_logits(built.model, data.train, batch_size=7, **settings)
    batches = predict_logits(built.model, (images[i : i + 4] for i in range(0, 25, 4)), **settings)
    assert whole.shape == (25, data.classes)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole, batches, atol=1e-5)
    assert built.model.training is training


def test_read_only_images_are_taken(config: Make) -> None:
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    images.flags.writeable = False
    built = build_model(config(), 3)
    assert predict_logits(built.model, [images], mean=built.mean, std=built.std).shape == (2, 3)


def test_no_images_give_no_logits(config: Make) -> None:
    built = build_model(config(), 3)
    assert len(predict_logits(built.model, [], mean=built.mean, std=built.std)) == 0


def test_the_mode_comes_back_after_a_fault() -> None:
    network = torch.nn.Linear(2, 1).train()
    with pytest.raises(RuntimeError, match="shape"):
        outputs(network, [torch.zeros(1, 3)], ComputeFormat())
    assert network.training
