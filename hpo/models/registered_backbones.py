"""Small networks that timm lacks, registered with it under their names, to be trained from scratch.

Two are relatives of EfficientNet-B0 (Tan and Le 2019) made of timm's MBConv and squeeze-excitation blocks; two are
plain convolutional networks, as starting points for a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.helpers import to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

# In timm's notation `ir_r2_k5_s2_e6_c40_se0.25` is a stage of two MBConv blocks with 5x5 kernels, stride 2,
# expansion 6, 40 channels, and squeeze-excitation to a quarter of the block's input channels.
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


_EFFICIENTNET = {
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "conv_stem",
    "classifier": "classifier",
}
_PLAIN = {
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stages.0.conv",
    "classifier": "head",
}

# timm looks up `default_cfgs` in the module of each registered function.
default_cfgs = generate_default_cfgs(
    {
        "deepefficientnet": _EFFICIENTNET,
        "efficientnetlite": _EFFICIENTNET,
        "cnn3": _PLAIN,
        "simplecnn": {**_PLAIN, "fixed_input_size": True},
    }
)


@register_model
def deepefficientnet(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build EfficientNet-B0's stem and stages 1-4, squeeze-excitation in stages 3 and 4 only, pooled to 80 features."""
    return _efficientnet("deepefficientnet", _DEEP, pretrained, options)


@register_model
def efficientnetlite(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build EfficientNet-B0's stem and stages 1-5, all with 3x3 kernels and expansion 4, pooled to 112 features."""
    return _efficientnet("efficientnetlite", _LITE, pretrained, options)


def _efficientnet(name: str, stages: tuple[str, ...], pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """Build the stem and `stages` with SiLU, and no convolution between the last stage and the pooling."""
    blocks = decode_arch_def([[stage] for stage in stages])  # type: ignore[no-untyped-call]
    network: nn.Module = build_model_with_cfg(
        partial(EfficientNet, block_args=blocks, num_features=0),
        name,
        pretrained,
        **{"act_layer": nn.SiLU, **options},
    )
    return network


class ConvStage(nn.Module):
    """A 3x3 convolution, ReLU and 2x2 max pooling: (b, C, H, W) -> (b, C', H // 2, W // 2)."""

    def __init__(self, channels: int, widened: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, widened, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """Return maps of half the side with `widened` channels."""
        pooled: Tensor = self.pool(self.act(self.conv(images)))
        return pooled


class PlainCnn(nn.Module):
    """Stages of the given widths, then the mean over the remaining positions; the interface is that of timm's models.

    If `dense` is not 0, all positions go into one dense layer of `dense` units with ReLU in place of the mean. That
    fixes the size of the images.
    """

    def __init__(
        self,
        widths: Sequence[int],
        dense: int = 0,
        *,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(ConvStage(*pair) for pair in pairwise([in_chans, *widths])))
        height, width = (side // 2 ** len(widths) for side in to_2tuple(img_size))
        self.dense = nn.Linear(widths[-1] * height * width, dense) if dense else None
        self.act = nn.ReLU()
        self.drop = nn.Dropout(drop_rate)
        self.num_features = self.head_hidden_size = dense or widths[-1]
        self.reset_classifier(num_classes)
        self.apply(_initialise)

    def forward_features(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) -> (b, C, H', W')."""
        maps: Tensor = self.stages(images)
        return maps

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """(b, C, H', W') -> (b, num_classes), or (b, num_features) before the classifier."""
        features = maps.mean((2, 3)) if self.dense is None else self.act(self.dense(maps.flatten(1)))
        return features if pre_logits else self.head(self.drop(features))

    def forward(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) -> (b, num_classes), or (b, num_features) for `num_classes=0`."""
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Make a new last layer, or none for 0 classes. `global_pool` belongs to timm's interface and is ignored."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the blocks for timm's layer-wise functions: each stage, and the dense layer."""
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), (r"^dense", (len(self.stages),))]}


@register_model
def cnn3(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build three convolutions of 32, 64 and 128 channels, pooled to 128 features, for images from 8 pixels."""
    network: nn.Module = build_model_with_cfg(PlainCnn, "cnn3", pretrained, widths=(32, 64, 128), **options)
    return network


@register_model
def simplecnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Build four convolutions of 32 to 256 channels and a dense layer of 512: 26.08 M parameters at 224 pixels."""
    network: nn.Module = build_model_with_cfg(
        PlainCnn, "simplecnn", pretrained, widths=(32, 64, 128, 256), dense=512, **options
    )
    return network


def _initialise(module: nn.Module) -> None:
    """Initialise a layer as He et al. 2015 do for ReLU (arXiv 1502.01852)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
