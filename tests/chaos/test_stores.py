"""A campaign's means to damage and cut off an object store, tested on a folder and on a real S3 server."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage import StoreUnavailableError
from tests.chaos.proxy import Proxy, Where, http_pieces
from tests.chaos.stores import Store, damaged

STUDY = "0123"
CONTENT = {"resume.safetensors": b"weights" * 1000}


@pytest.fixture
def cut_off(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Return a store in S3 that this process also reaches through the network which can be cut."""
    proxy = Proxy(urlsplit(os.environ["AWS_ENDPOINT_URL_S3"]).port or 0, http_pieces)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
    yield Store(s3_root, proxy=proxy)
    proxy.close()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path) if request.param == "folder" else request.getfixturevalue("cut_off")


@pytest.mark.parametrize("strength", [number / 10 for number in range(10)])
def test_only_the_newest_checkpoint_is_damaged(store: Store, strength: float) -> None:
    assert not store.damage(STUDY, 3, strength)
    checkpoints = store.open(STUDY)
    older, newer = (checkpoints.write(3, "latest", CONTENT, {"position": p}, token=1) for p in (1, 2))
    assert store.damage(STUDY, 3, strength)
    found = checkpoints.read(3, "latest")
    assert (found.name, found.files) == (older, CONTENT)
    assert newer in found.damaged[0]


def test_content_is_flipped_truncated_or_removed() -> None:
    content = bytes(1000)
    forms = [damaged(content, random.Random(seed)) for seed in range(50)]
    assert None in forms
    assert any(form is not None and len(form) < 1000 for form in forms)
    assert any(form is not None and len(form) == 1000 and form != content for form in forms)
    assert content not in forms


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_upload_that_is_cut_once_is_repeated(cut_off: Store, where: Where) -> None:
    assert cut_off.proxy is not None
    cut = cut_off.proxy.cut_at(b"PUT", where)
    checkpoints = cut_off.open(STUDY)
    checkpoints.write(3, "latest", CONTENT, {}, token=1)
    assert cut.struck.is_set()
    assert checkpoints.read(3, "latest").files == CONTENT


def test_an_object_store_is_unavailable_while_it_refuses_connections(cut_off: Store) -> None:
    assert cut_off.proxy is not None
    checkpoints = cut_off.open(STUDY)
    cut_off.proxy.refuse()
    with pytest.raises(StoreUnavailableError):
        checkpoints.has(3, "latest")
    cut_off.proxy.admit()
    assert not checkpoints.has(3, "latest")
