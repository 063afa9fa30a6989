from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from hpo.bundle.model import load
from hpo.experiments.benchmark import Timing, images_per_second, seconds_per_call


def test_the_median_leaves_out_warm_up_and_outliers() -> None:
    naps = iter([0.05, 0.05, 0.001, 0.05, 0.001, 0.001, 0.001])
    taken = seconds_per_call(lambda: time.sleep(next(naps)), Timing(warmup=2, seconds=0, least=5))
    assert 0.001 <= taken < 0.03
    assert next(naps, None) is None, "two calls that do not count, and five that do"


@pytest.mark.parametrize(("timing", "calls"), [(Timing(0, 0.0, 3), 3), (Timing(1, 1e9, 1, most=7), 8)])
def test_the_number_of_calls_is_bounded(timing: Timing, calls: int) -> None:
    called: list[int] = []
    seconds_per_call(lambda: called.append(1), timing)
    assert len(called) == calls


def test_images_repeat_if_there_are_too_few(bundle: Path) -> None:
    model, seen = load(bundle, "cpu"), []
    images = np.zeros((3, 32, 32, 3), np.uint8)
    network = model.network
    handle = network.register_forward_hook(lambda *given: seen.append(len(given[2])))
    speed = images_per_second(model, images, 8, Timing(warmup=1, seconds=0, least=2))
    handle.remove()
    assert speed > 0
    assert seen == [8, 8, 8]
