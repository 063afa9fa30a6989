"""timm's own pretrained weights: whether there are any, and a clear word where the hub cannot be reached."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from timm.models import is_model_pretrained

from hpo.errors import HubError, ModelError

PATIENCE = 5.0
"""Seconds to wait for the hub's first answer."""

WAY_OUT = "give --weights FILE, --set pretrained=false, or HF_HOME with a filled cache"


@contextmanager
def hub(backbone: str) -> Iterator[None]:
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
