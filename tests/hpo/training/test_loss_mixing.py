from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hpo.training.loss import build_mixer, smoothed
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
LABELS = torch.tensor([0, 1, 2, 0, 1])


def images() -> torch.Tensor:
    """Return images whose pixels equal their number, so that a mean shows the share of each."""
    return torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 8, 8).clone()


def test_there_is_no_mixer_without_mixing(config: Make) -> None:
    assert build_mixer(config(), 3) is None


@pytest.mark.parametrize("choices", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_targets_are_mixed_as_the_images_are(config: Make, choices: dict[str, float]) -> None:
    mixer = build_mixer(config(label_smoothing=0.1, **choices), 3)
    assert mixer is not None
    inputs, targets = mixer(images(), LABELS, seed=4)
    assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * 5)
    share = 1 - inputs[0].mean().item() / 3  # image 0 is mixed with image 3
    assert 0 < share < 1
    expected = share * smoothed(LABELS, 3, 0.1)[1] + (1 - share) * smoothed(LABELS, 3, 0.1)[2]
    torch.testing.assert_close(targets[1], expected)


def test_the_last_image_of_an_odd_batch_stays_unmixed(config: Make) -> None:
    mixer = build_mixer(config(mixup=1.0), 3)
    assert mixer is not None
    inputs, targets = mixer(images(), LABELS, seed=4)
    assert inputs[4].eq(4.0).all()
    assert targets[4].tolist() == [0, 1, 0]


def test_mixing_depends_on_the_seed_alone_and_leaves_numpy_s_generator_unchanged(config: Make) -> None:
    mixer = build_mixer(config(mixup=1.0, cutmix=1.0), 3)
    assert mixer is not None
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    first, second, other = (mixer(images(), LABELS, seed)[0] for seed in (1, 1, 2))
    assert np.random.rand() == expected
    assert first.equal(second)
    assert not first.equal(other)
