"""Bundles in S3: `s3://bucket/prefix` in place of a folder.

A bundle is uploaded as a whole, config.json last, so that an unfinished upload is not taken for a bundle. It is
downloaded into the cache, into a folder named by the digest of its config.json, and records of test access are sent
back.

Other machines, and other processes on this one, record accesses too: records are merged on the way down as on the way
up, and never overwritten. Only two writers within the same instant could still lose one of them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from hpo.bundle.bundle import CONFIG, FILES, files_in_config, read_bundle
from hpo.bundle.json_files import json_text
from hpo.bundle.model_card import MARK, README, refresh_card
from hpo.bundle.stored_metrics import METRICS, merge_metrics, on_test_access, with_openings_of
from hpo.errors import BundleError
from hpo.files import exclusive_lock, write_file, write_folder
from storage import ObjectStore, is_url, open_objects


@contextmanager
def local_bundle(bundle: Path | str, cache: Path) -> Iterator[Path]:
    """Give the folder of a bundle, downloaded into `cache` if `bundle` is a URL.

    A test access that the block records is recorded in S3 before it happens; its result is sent after the block, also
    after an exception. Print the results only after the block, so that none of them stays unrecorded. Raises
    BundleError where there is no bundle, CheckpointError when S3 does not answer.
    """
    if not is_url(bundle):
        yield Path(bundle)
        return
    objects = open_objects(bundle)
    folder = _download(objects, cache / "bundles")
    before = (folder / METRICS).read_bytes()
    try:
        with on_test_access(folder, partial(_send_metrics, objects, folder)):
            yield folder
    finally:
        if (folder / METRICS).read_bytes() != before:
            _send_metrics(objects, folder)


def _download(objects: ObjectStore, cache: Path) -> Path:
    """Return the bundle's folder in `cache`, with the records of both places; download only what is not whole there."""
    config, metrics = _get(objects, CONFIG), _get(objects, METRICS)
    folder = cache / hashlib.sha256(config).hexdigest()
    if not _is_whole(folder):
        files = {name: _get(objects, name) for name in files_in_config(config)}
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(cache):
            if not _is_whole(folder):  # Another process may have been faster, and recorded an access in it.
                write_folder(folder, {**files, CONFIG: config, METRICS: metrics})
    merge_metrics(folder, metrics)
    return folder


def _send_metrics(objects: ObjectStore, folder: Path) -> None:
    """Merge the records of `folder` and of S3 in both places, unless another bundle has replaced it in S3."""
    if hashlib.sha256(_get(objects, CONFIG)).hexdigest() != folder.name:
        return
    merge_metrics(folder, _get(objects, METRICS))
    objects.put(METRICS, (folder / METRICS).read_bytes())
    _send_card(objects, folder)


def _send_card(objects: ObjectStore, folder: Path) -> None:
    """Write the model card anew in both places, where hpo wrote the one in S3: earlier versions wrote none."""
    refresh_card(folder)
    if _own_card(objects):
        objects.put(README, (folder / README).read_bytes())


def _is_whole(folder: Path) -> bool:
    try:
        read_bundle(folder)
    except BundleError:
        return False
    return True


def _own_card(objects: ObjectStore) -> set[str]:
    """Return the name of the model card where there is one that hpo wrote; else nothing."""
    with suppress(FileNotFoundError):
        return {README} if MARK.encode() in objects.get(README) else set()
    return set()


@contextmanager
def upload_bundle(out: Path | str, cache: Path, *, force: bool) -> Iterator[Path]:
    """Give the folder to write a bundle to; if `out` is a URL, upload it after the block, also after an exception.

    Raises BundleError, before the block, where something is there already; a bundle may be replaced with `force`.
    """
    if not is_url(out):
        yield Path(out)
        return
    objects = open_objects(out)
    _check_prefix(objects, force=force)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="bundle-") as folder:
        bundle = Path(folder, "bundle")
        try:
            yield bundle
        finally:
            if (bundle / CONFIG).is_file():
                _upload(bundle, objects)


def _check_prefix(objects: ObjectStore, *, force: bool) -> None:
    names = {found.key for found in objects.list()}
    if names - FILES - (_own_card(objects) if README in names else set()):
        raise BundleError(f"{objects.place} holds other things than a bundle; name a prefix that nothing lies under")
    if names and not force:
        raise BundleError(f"{objects.place} is a bundle already; give --force to replace it, or name another prefix")


def _upload(bundle: Path, objects: ObjectStore) -> None:
    with suppress(FileNotFoundError):  # The new bundle keeps the records of a bundle that it replaces.
        metrics = with_openings_of(json.loads((bundle / METRICS).read_bytes()), objects.get(METRICS))
        write_file(bundle / METRICS, json_text(metrics))
    refresh_card(bundle)
    present = (FILES | {README}).intersection(entry.name for entry in bundle.iterdir())
    objects.delete([CONFIG, *sorted(FILES - present)])
    for name in (*sorted(present - {CONFIG}), CONFIG):
        objects.put(name, (bundle / name).read_bytes())


def _get(objects: ObjectStore, name: str) -> bytes:
    try:
        return objects.get(name)
    except FileNotFoundError:
        raise BundleError(f"{objects.place} is not a bundle: it has no {name}") from None
