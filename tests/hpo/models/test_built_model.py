from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hpo.errors import ModelError
from hpo.models import build_model, check_trainable
from search_spaces import TrialConfig

Make = Callable[..., TrialConfig]


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_head_has_the_layers_asked_for(config: Make, layers: int) -> None:
    settings = config(head_layers=layers, head_units=16, head_activation="gelu", dropout=0.25)
    model = build_model(settings, 5).model
    kinds = [type(layer) for layer in model.head.children()]
    assert kinds == [nn.Dropout, nn.Linear, nn.GELU] * layers + [nn.Dropout, nn.Linear]
    assert {layer.p for layer in model.head.modules() if isinstance(layer, nn.Dropout)} == {0.25}
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "backbone", ["test_efficientnet", "test_vit", "test_convnext", "test_nfnet", "mobilenetv3_small_050"]
)
def test_backbones_of_every_kind_train_at_the_size_asked_for(config: Make, backbone: str) -> None:
    settings = config(backbone=backbone, image_size=64, drop_path=0.1)
    found = check_trainable(settings, 4)
    assert found.trainable == found.parameters > 10_000
    assert found.weights is None


def test_drop_path_is_left_out_where_a_backbone_has_none(config: Make) -> None:
    assert build_model(config(backbone="dla46_c", drop_path=0.2), 3).features == 256


def test_an_unknown_backbone_gets_similar_names(config: Make) -> None:
    with pytest.raises(ModelError, match=r"backbone is 'mobilnetv2_035', but must be .* mobilenetv2_035"):
        build_model(config(backbone="mobilnetv2_035"), 3)


def test_an_unknown_tag_gets_the_known_tags(config: Make) -> None:
    with pytest.raises(ModelError, match=r"backbone is 'resnet18.a9_in1k', but .*resnet18\.a1_in1k"):
        build_model(config(backbone="resnet18.a9_in1k"), 3)
    assert build_model(config(backbone="resnet18.a1_in1k"), 3).features == 512


def test_a_name_without_similar_names_gets_the_place_of_the_list(config: Make) -> None:
    with pytest.raises(ModelError, match="list_models"):
        build_model(config(backbone="zzzzqqqq"), 3)


def test_a_size_that_the_backbone_cannot_take_is_refused_before_the_study(config: Make) -> None:
    with pytest.raises(ModelError, match="image_size is 40"):
        check_trainable(config(backbone="test_vit", image_size=40), 3)


def test_a_backbone_that_timm_has_no_weights_of_says_so(config: Make) -> None:
    with pytest.raises(ModelError, match=r"no pretrained weights of mobilenetv2_035: give --weights"):
        build_model(config(backbone="mobilenetv2_035", pretrained=True), 3)


def test_an_unreachable_hub_names_the_remedies(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nonexistent")
    with pytest.raises(
        ModelError, match=r"resnet18 are not available .*--weights FILE.*pretrained=false.*HF_HOME"
    ) as caught:
        build_model(config(backbone="resnet18", pretrained=True), 3)
    assert "\n" not in str(caught.value)


def test_the_architecture_alone_needs_no_weights(config: Make) -> None:
    settings = config(backbone="resnet18", pretrained=True, weights="/nonexistent.safetensors")
    assert build_model(settings, 3, initialise=False).weights is None


def test_normalisation_is_timm_s_for_the_backbone(config: Make) -> None:
    assert build_model(config(backbone="vit_tiny_patch16_224"), 3).mean == (0.5, 0.5, 0.5)
    assert build_model(config(backbone="resnet18"), 3).mean == (0.485, 0.456, 0.406)


def test_trainable_parameters_are_those_of_the_phase_with_the_largest_depth(config: Make) -> None:
    phased = config(epochs=3, **{"phase1.epochs": 1, "phase1.unfreeze_depth": 0.0, "phase2.epochs": 2})
    deepest, whole = (
        phased.replace(phases=[{"epochs": 3, "unfreeze_depth": 0.5}]),
        check_trainable(phased, 4),
    )
    assert whole.trainable == whole.parameters
    assert 0 < check_trainable(deepest, 4).trainable < whole.trainable
