"""Two small relatives of EfficientNet-B0 (Tan and Le 2019), of timm's own MBConv and squeeze-excitation blocks.

Written in timm's notation: `ir_r2_k5_s2_e6_c40_se0.25` is a stage of two MBConv blocks with 5x5 kernels, stride 2,
expansion 6, 40 channels, and squeeze-excitation to a quarter of the block's input channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

_DEEP = (
    "ds_r1_k3_s1_e1_c16",
    "ir_r2_k3_s2_e6_c24",
    "ir_r2_k5_s2_e6_c40_se0.25",
    "ir_r3_k3_s2_e6_c80_se0.25",
)
_LITE = (
    "ds_r1_k3_s1_e1_c16_se0.25",
    "ir_r2_k3_s2_e4_c24_se0.25",
    "ir_r2_k3_s2_e4_c40_se0.25",
    "ir_r3_k3_s2_e4_c80_se0.25",
    "ir_r3_k3_s1_e4_c112_se0.25",
)
_SETTINGS = {
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "conv_stem",
    "classifier": "classifier",
}

default_cfgs = generate_default_cfgs({"deepefficientnet": _SETTINGS, "efficientnetlite": _SETTINGS})


@register_model
def deepefficientnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """EfficientNet-B0's stem and stages 1-4, squeeze-excitation in stages 3 and 4 only, pooled to 80 features."""
    return _efficientnet("deepefficientnet", _DEEP, pretrained, options)


@register_model
def efficientnetlite(pretrained: bool = False, **options: Any) -> nn.Module:
    """EfficientNet-B0's stem and stages 1-5 with 3x3 kernels and expansion 4 throughout, pooled to 112 features."""
    return _efficientnet("efficientnetlite", _LITE, pretrained, options)


def _efficientnet(name: str, stages: tuple[str, ...], pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """The stem and `stages`, with SiLU, and no convolution between the last stage and the pooling."""
    blocks = decode_arch_def([[stage] for stage in stages])  # type: ignore[no-untyped-call]
    network: nn.Module = build_model_with_cfg(
        partial(EfficientNet, block_args=blocks, num_features=0),
        name,
        pretrained,
        **{"act_layer": nn.SiLU, **options},
    )
    return network
