from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpo.models import build_model
from hpo.models.classifier import Classifier
from hpo.models.compute_format import ComputeFormat
from hpo.training import tuning as tuning_module
from hpo.training.tuning import NAME, choose_format, get_cached, set_cached
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]
CPU = torch.device("cpu")


@pytest.fixture
def model(config: Make) -> Classifier:
    return build_model(config(), 3).model


def test_without_a_cache_nothing_is_measured(config: Make, model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tuning_module, "measure_fastest")
    assert choose_format(config(), model, CPU, None) == ComputeFormat("fp32")
    assert choose_format(config(precision="bf16"), model, CPU, None) == ComputeFormat("bf16")
    for supported, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, supported=supported, **__: supported)
        assert choose_format(config(), model, torch.device("cuda"), None) == ComputeFormat(expected)


def test_a_measurement_is_made_once_and_stored(
    config: Make, model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choose_format(config(batch_size=4), model, CPU, tmp_path)
    assert len(json.loads((tmp_path / NAME).read_text())) == 1
    monkeypatch.delattr(tuning_module, "measure_fastest")
    assert choose_format(config(batch_size=4), model, CPU, tmp_path) == chosen
    with pytest.raises(NameError):
        choose_format(config(image_size=40), model, CPU, tmp_path)


def test_a_given_precision_is_kept_and_its_layout_measured(config: Make, model: Classifier, tmp_path: Path) -> None:
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
    monkeypatch.setattr(tuning_module, "_step", lambda option, *_: running.append(option.precision))

    def timed(action: Callable[[], None], _: torch.device) -> float:
        action()
        return clock[running[-1]]

    monkeypatch.setattr(tuning_module, "_seconds_of", timed)
    assert tuning_module.measure_fastest(config(), model, CPU).precision == expected


@pytest.mark.parametrize(("supported", "second"), [(True, "bf16"), (False, "fp16")])
def test_fp16_is_tried_only_without_bf16(supported: bool, second: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: supported)
    names = [option.precision for option in tuning_module._options("auto", torch.device("cuda"))]
    assert names == ["fp32", "fp32", second, second]
    assert {option.precision for option in tuning_module._options("auto", CPU)} == {"fp32", "bf16"}
    assert {option.precision for option in tuning_module._options("fp16", torch.device("cuda"))} == {"fp16"}


FORMATS = list(tuning_module._options("auto", CPU))


@given(st.lists(st.floats(0.95, 1.04), min_size=4, max_size=4), st.floats(1e-3, 10))
def test_noise_below_the_margin_decides_nothing(noise: list[float], seconds: float) -> None:
    costs = {option: seconds * factor for option, factor in zip(FORMATS, noise, strict=True)}
    assert tuning_module._clearly_fastest(costs) == FORMATS[0]


@pytest.mark.parametrize(
    ("costs", "expected"),
    [((1, 0.8, 0.75, 0.9), 1), ((1, 0.8, 0.7, 0.65), 2), ((1, 0.95, 0.87, 0.8), 2), ((1, 1, 1, 0.5), 3)],
)
def test_each_format_must_be_clearly_faster_than_the_one_chosen_before_it(
    costs: tuple[float, ...], expected: int
) -> None:
    assert tuning_module._clearly_fastest(dict(zip(FORMATS, costs, strict=True))) == FORMATS[expected]


def test_a_step_of_fp16_is_timed_with_its_pass_over_the_gradients(model: Classifier) -> None:
    passes = []
    for name in ("fp32", "bf16", "fp16"):
        scaling = tuning_module._Scaling(ComputeFormat(name), model, CPU)
        unscale, count = scaling._scaler.unscale_, len(passes)
        scaling._scaler.unscale_ = lambda optimiser, unscale=unscale: passes.append(unscale(optimiser))  # type: ignore[method-assign]
        for _ in range(2):
            loss = sum(parameter.square().sum() for parameter in model.parameters() if parameter.requires_grad)
            assert isinstance(loss, torch.Tensor)
            scaling.backward(loss)
        assert len(passes) - count == (2 if name == "fp16" else 0)
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    assert get_cached(tmp_path, "a") is None
    set_cached(tmp_path, "a", {"b": 1})
    set_cached(tmp_path, "c", 2)
    assert (get_cached(tmp_path, "a"), get_cached(tmp_path, "c")) == ({"b": 1}, 2)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_the_measurements(tmp_path: Path, umask: int, mode: int) -> None:
    """Users of a shared cache share the file: one that another user could not read was replaced without its entries."""
    before = os.umask(umask)
    try:
        set_cached(tmp_path, "a", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == mode
