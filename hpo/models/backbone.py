"""timm's own pretrained weights: whether there are any, and a clear word where the hub cannot be reached.

Backbones by name: timm's and ours, bare of their classifier, at the image size and with the drop path asked for.
"""

from __future__ import annotations

import difflib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import timm
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from timm.models import is_model_pretrained
from torch import nn

from hpo.errors import HubError, ModelError
from hpo.models.registered_backbones import BASELINES
from search_spaces import TrialConfig

PATIENCE = 5.0
"""Seconds to wait for the hub's first answer."""

WAY_OUT = "give --weights FILE, --set pretrained=false, or HF_HOME with a filled cache"


@contextmanager
def hub_download(backbone: str) -> Iterator[None]:
    """Download weights inside; ModelError for a backbone that has none, HubError for a hub that cannot be reached."""
    if not is_model_pretrained(backbone):
        raise ModelError(f"timm has no pretrained weights of {backbone}: give --weights FILE or --set pretrained=false")
    try:
        with _offline_unless(_reachable()):
            yield
    except (OSError, EntryNotFoundError, HfHubHTTPError) as error:
        raise HubError(
            f"the pretrained weights of {backbone} cannot be had from {constants.ENDPOINT} "
            f"({type(error).__name__}), nor are they in the cache: {WAY_OUT}"
        ) from error


@cache
def _reachable() -> bool:
    """Whether the hub answers at all, whatever it says; proxies of the environment are used. Asked once a process."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the hub's own constant
    try:
        urllib.request.urlopen(request, timeout=PATIENCE).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def _offline_unless(reachable: bool) -> Iterator[None]:
    """Look in the cache only when the hub does not answer: its client would retry for most of a minute first."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def check_known(backbone: str) -> None:
    """Raise ModelError, which names what is near, for a backbone that neither timm nor we have."""
    if not _known(backbone):
        raise ModelError(_unknown(backbone))


def network_name(config: TrialConfig) -> str:
    """The backbone as what is measured of it is remembered by: its speed and memory change with the normalisation."""
    native = config.normalisation == "native"
    return config.backbone if native else f"{config.backbone} with {config.normalisation} normalisation"


def create_backbone(config: TrialConfig, *, pretrained: bool) -> nn.Module:
    """The configuration's backbone without a classifier: (b, 3, S, S) images -> (b, F) pooled features.

    `pretrained` loads timm's weights. Drop path is left out where the backbone has none. Raises ModelError for an
    image size that it cannot take, and for weights that cannot be had.
    """
    if not pretrained:
        return _create(config, pretrained=False)
    with hub_download(config.backbone):
        return _create(config, pretrained=True)


def feature_width(backbone: nn.Module) -> int:
    """F, the length of the pooled features."""
    width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[assignment]
    return width


def _known(backbone: str) -> bool:
    """Whether timm has the architecture and, where a name `architecture.tag` asks for them, the weights of that tag."""
    architecture, _, tag = backbone.partition(".")
    return timm.is_model(architecture) and (not tag or backbone in timm.list_pretrained(f"{architecture}.*"))


def _unknown(backbone: str) -> str:
    names = timm.list_pretrained() if "." in backbone else [*timm.list_models(), *BASELINES]
    near = difflib.get_close_matches(backbone, names, n=3, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else "`timm.list_models()` names them"
    return f"backbone is {backbone!r}, but must be the name of a timm model; {hint}"


def _create(config: TrialConfig, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    fixed = _fixed_size(config.backbone)
    if fixed is not None and fixed != config.image_size:
        options["img_size"] = config.image_size
    while True:
        try:
            backbone: nn.Module = timm.create_model(config.backbone, pretrained=pretrained, num_classes=0, **options)
        except TypeError as error:
            _drop_refused(options, error, config, fixed)
        except AssertionError as error:
            raise ModelError(
                f"{config.backbone} cannot be built for images of {config.image_size} pixels: {error}"
            ) from error
        else:
            return backbone


def _drop_refused(options: dict[str, Any], error: TypeError, config: TrialConfig, fixed: int | None) -> None:
    """Take from `options` the one that the backbone does not know, where it may be missing."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    refused = found[1] if found else ""
    if refused not in options:
        raise error
    if refused == "img_size":
        raise ModelError(f"image_size is {config.image_size}, but {config.backbone} takes {fixed} only") from error
    del options[refused]


def _fixed_size(backbone: str) -> int | None:
    """The image side that a backbone is made for and cannot leave by itself (transformers); None for the others."""
    settings = timm.models.get_pretrained_cfg(backbone)
    if settings is None or not settings.fixed_input_size:
        return None
    return int(settings.input_size[-1])
