"""Plain convolutional networks to be trained from scratch: what a comparison starts from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.helpers import to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

_SETTINGS = {
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stages.0.conv",
    "classifier": "head",
}

default_cfgs = generate_default_cfgs({"cnn3": _SETTINGS, "simplecnn": {**_SETTINGS, "fixed_input_size": True}})


class Stage(nn.Module):
    """A 3x3 convolution, ReLU and 2x2 max pooling: (b, C, H, W) -> (b, C', H // 2, W // 2)."""

    def __init__(self, channels: int, widened: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, widened, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """Half the side, `widened` channels."""
        pooled: Tensor = self.pool(self.act(self.conv(images)))
        return pooled


class PlainCnn(nn.Module):
    """Stages of the given widths, then the mean over the positions that are left.

    Where `dense` is not 0, all positions go into one dense layer of so many units with ReLU instead, which fixes the
    size of the images. The interface is that of timm's models.
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
        self.stages = nn.Sequential(*(Stage(*pair) for pair in pairwise([in_chans, *widths])))
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
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new last layer; none for 0 classes. `global_pool` is timm's, and there is nothing to choose."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Blocks for timm's layer-wise functions: every stage is one, and the dense layer."""
        return {"stem": r"^stages\.0", "blocks": [(r"^stages\.(\d+)", None), (r"^dense", (len(self.stages),))]}


@register_model
def cnn3(pretrained: bool = False, **options: Any) -> nn.Module:
    """Three convolutions of 32, 64 and 128 channels, pooled to 128 features; images of any size from 8 pixels."""
    network: nn.Module = build_model_with_cfg(PlainCnn, "cnn3", pretrained, widths=(32, 64, 128), **options)
    return network


@register_model
def simplecnn(pretrained: bool = False, **options: Any) -> nn.Module:
    """Four convolutions of 32, 64, 128 and 256 channels and a dense layer of 512: 26.08 M parameters at 224 pixels."""
    network: nn.Module = build_model_with_cfg(
        PlainCnn, "simplecnn", pretrained, widths=(32, 64, 128, 256), dense=512, **options
    )
    return network


def _initialise(module: nn.Module) -> None:
    """He et al. 2015, for ReLU."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
