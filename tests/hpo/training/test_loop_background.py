"""With `background: mask` training, validation and prediction see the same pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import safetensors.torch

from hpo.data.dataset import Part
from hpo.data.synthetic import draw_cell
from hpo.models.built_model import build_model
from hpo.models.inference import Predictor
from hpo.training import FitData, Runtime, fit
from search_spaces import TrialConfig


@pytest.fixture(scope="module")
def cells() -> FitData:
    images = np.stack([draw_cell(row % 3, row, 32) for row in range(20)])
    rows = np.arange(20)
    return FitData(
        *(Part(images, some, some % 3, [str(row) for row in some]) for some in (rows[:14], rows[14:])), classes=3
    )


@pytest.mark.parametrize("changes", [{}, {"unfreeze_depth": 0.0}], ids=["trained", "frozen"])
def test_validation_and_prediction_give_the_same_logits(
    config: Callable[..., TrialConfig], cells: FitData, changes: dict[str, float]
) -> None:
    """Of a whole part, and of batches as `predict` gives them; images as they are packed give others."""
    settings = config(background="mask", epochs=1, precision="fp32", **changes)
    (result,) = fit(settings, cells, Runtime(seed=0))
    built = build_model(settings, 3, initialise=False)
    built.model.load_state_dict(safetensors.torch.load(result.weights()))
    assert cells.val is not None
    assert result.logits is not None
    images = cells.val.batch(np.arange(6))

    def logits(source: object, background: str) -> np.ndarray:
        predictor = Predictor(built.model, mean=built.mean, std=built.std, background=background)
        return predictor.logits(source)

    assert np.allclose(logits(cells.val, "mask"), result.logits, atol=1e-4)
    assert np.allclose(logits([images[:4], images[4:]], "mask"), result.logits, atol=1e-4)
    assert not np.allclose(logits(cells.val, "keep"), result.logits, atol=1e-3)
    assert cells.val.prepare is None, "the caller's part stays as it was"
