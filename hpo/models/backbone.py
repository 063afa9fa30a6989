"""Backbones by name: timm's networks and ours without their classifier, with timm's pretrained weights if asked for."""

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
from hpo.models import registered_backbones  # noqa: F401 - importing it registers our networks with timm
from hpo.models.baselines import BASELINES
from search_spaces import TrialConfig

HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub's first response."""

WAY_OUT = "give --weights FILE, --set pretrained=false, or HF_HOME with a filled cache"


def check_known(backbone: str) -> None:
    """Raise ModelError, with similar names, for a backbone that neither timm nor this package has."""
    if not _known(backbone):
        raise ModelError(_unknown(backbone))


def _known(backbone: str) -> bool:
    """Return whether timm has the architecture and, for a name `architecture.tag`, pretrained weights of that tag."""
    architecture, _, tag = backbone.partition(".")
    return timm.is_model(architecture) and (not tag or backbone in timm.list_pretrained(f"{architecture}.*"))


def _unknown(backbone: str) -> str:
    names = timm.list_pretrained() if "." in backbone else [*timm.list_models(), *BASELINES]
    near = difflib.get_close_matches(backbone, names, n=3, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else "`timm.list_models()` names them"
    return f"backbone is {backbone!r}, but must be the name of a timm model; {hint}"


def network_name(config: TrialConfig) -> str:
    """Return the name of the network in the autotune cache: speed and memory depend on the normalisation, too."""
    native = config.normalisation == "native"
    return config.backbone if native else f"{config.backbone} with {config.normalisation} normalisation"


def create_backbone(config: TrialConfig, *, pretrained: bool) -> nn.Module:
    """Create the configuration's backbone without a classifier: (b, 3, S, S) images -> (b, F) pooled features.

    `pretrained` loads timm's weights. Drop path is ignored for a backbone that does not support it. Raises ModelError
    for an image size that the backbone does not take, and for weights that are not available.
    """
    if not pretrained:
        return _create(config, pretrained=False)
    with hub_download(config.backbone):
        return _create(config, pretrained=True)


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
    """Remove from `options` the one that the backbone does not accept; raise `error` if it is not ours to remove."""
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    refused = found[1] if found else ""
    if refused not in options:
        raise error
    if refused == "img_size":
        raise ModelError(f"image_size is {config.image_size}, but {config.backbone} takes {fixed} only") from error
    del options[refused]


def _fixed_size(backbone: str) -> int | None:
    """Return the image side that a backbone requires (transformers); None for backbones that take any size."""
    settings = timm.models.get_pretrained_cfg(backbone)
    if settings is None or not settings.fixed_input_size:
        return None
    return int(settings.input_size[-1])


@contextmanager
def hub_download(backbone: str) -> Iterator[None]:
    """Allow downloads of the weights of `backbone` inside the block.

    Raises ModelError for a backbone without pretrained weights, and HubError if the hub cannot be reached.
    """
    if not is_model_pretrained(backbone):
        raise ModelError(f"timm has no pretrained weights of {backbone}: give --weights FILE or --set pretrained=false")
    try:
        with _offline_unless(_reachable()):
            yield
    except (OSError, EntryNotFoundError, HfHubHTTPError) as error:
        raise HubError(
            f"the pretrained weights of {backbone} are not available from {constants.ENDPOINT} "
            f"({type(error).__name__}), nor are they in the cache: {WAY_OUT}"
        ) from error


@cache
def _reachable() -> bool:
    """Return whether the hub answers at all, with any status. Proxies of the environment are used."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the hub's own constant
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def _offline_unless(reachable: bool) -> Iterator[None]:
    """Use the local cache alone inside the block unless the hub is `reachable`."""
    # The hub's client would otherwise retry for most of a minute.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def feature_width(backbone: nn.Module) -> int:
    """Return F, the length of the pooled features."""
    width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[assignment]
    return width
