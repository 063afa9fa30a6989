from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpo.training import build_model
from hpo.training import precision as precision_module
from hpo.training.classifier import Classifier
from hpo.training.numerics import NumberFormat
from hpo.training.precision import choose_format
from hpo.training.speed_cache import NAME, recall, remember
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
CPU = torch.device("cpu")


@pytest.fixture
def model(config: Make) -> Classifier:
    return build_model(config(), 3).model


def test_without_a_cache_nothing_is_measured(config: Make, model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(precision_module, "fastest")
    assert choose_format(config(), model, CPU, None) == NumberFormat("fp32")
    assert choose_format(config(precision="bf16"), model, CPU, None) == NumberFormat("bf16")
    assert choose_format(config(), model, torch.device("cuda"), None) == NumberFormat("bf16")


def test_a_measurement_is_made_once_and_remembered(
    config: Make, model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_format(config(batch_size=4), model, CPU, tmp_path)
    assert len(json.loads((tmp_path / NAME).read_text())) == 1
    monkeypatch.delattr(precision_module, "fastest")
    assert choose_format(config(batch_size=4), model, CPU, tmp_path) == chosen
    with pytest.raises(NameError):
        choose_format(config(image_size=40), model, CPU, tmp_path)


def test_a_given_precision_is_obeyed_and_its_layout_measured(config: Make, model: Classifier, tmp_path: Path) -> None:
    assert choose_format(config(precision="bf16", batch_size=4), model, CPU, tmp_path).precision == "bf16"


def test_a_measurement_changes_neither_the_model_nor_the_generators(
    config: Make, model: Classifier, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    choose_format(config(batch_size=4), model, CPU, tmp_path)
    assert torch.rand(1) == expected
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("seconds", "expected"), [((1.0, 0.95), "fp32"), ((1.0, 0.8), "bf16"), ((1.0, 1.2), "fp32")], ids=str
)
def test_a_lower_precision_must_be_clearly_faster(
    config: Make, model: Classifier, seconds: tuple[float, float], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"fp32": seconds[0], "bf16": seconds[1]}
    running: list[str] = []
    monkeypatch.setattr(precision_module, "_step", lambda option, *_: running.append(option.precision))

    def timed(action: Callable[[], None], _: torch.device) -> float:
        action()
        return clock[running[-1]]

    monkeypatch.setattr(precision_module, "_timed", timed)
    assert precision_module.fastest(config(), model, CPU).precision == expected


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_torn_memory_is_forgotten(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    assert recall(tmp_path, "a") is None
    remember(tmp_path, "a", {"b": 1})
    remember(tmp_path, "c", 2)
    assert (recall(tmp_path, "a"), recall(tmp_path, "c")) == ({"b": 1}, 2)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
