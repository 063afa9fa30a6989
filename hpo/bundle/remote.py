"""Bundles in S3: `s3://bucket/prefix` in place of a folder.

A bundle goes up as a whole, config.json last: without it nobody takes what is there for a bundle. It comes down into
the cache, where it lies under the digest of its config.json, and the records of looks at the test part go back.

Other machines, and other processes on this one, look too: records are merged, never overwritten, on the way down as on
the way up. Only two that write within the same instant could still cost one of them a record.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from hpo.bundle.bundle import (
    CONFIG,
    FILES,
    METRICS,
    files_of,
    heard_openings,
    merge_metrics,
    read_bundle,
    with_openings_of,
)
from hpo.errors import BundleError
from hpo.files import exclusive_lock, write_file, write_folder
from storage import ObjectStore, is_url, open_objects


@contextmanager
def local_bundle(bundle: Path | str, cache: Path) -> Iterator[Path]:
    """The folder of a bundle, brought into `cache` if `bundle` is a URL.

    A look at the test part that the block records is recorded in S3 before it happens, and its result after the block,
    after an exception too. Print what the block found only after it, so that no result stays unrecorded. Raises
    BundleError where there is no bundle, CheckpointError when S3 does not answer.
    """
    if not is_url(bundle):
        yield Path(bundle)
        return
    objects = open_objects(bundle)
    folder = _download(objects, cache / "bundles")
    before = (folder / METRICS).read_bytes()
    try:
        with heard_openings(folder, partial(_send, objects, folder)):
            yield folder
    finally:
        if (folder / METRICS).read_bytes() != before:
            _send(objects, folder)


@contextmanager
def upload_bundle(out: Path | str, cache: Path, *, force: bool) -> Iterator[Path]:
    """The folder to write a bundle to; if `out` is a URL, what the block wrote is uploaded, after an exception too.

    Raises BundleError, before the block, where something is there already; a bundle may be replaced with `force`.
    """
    if not is_url(out):
        yield Path(out)
        return
    objects = open_objects(out)
    _check(objects, force=force)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="bundle-") as folder:
        bundle = Path(folder, "bundle")
        try:
            yield bundle
        finally:
            if (bundle / CONFIG).is_file():
                _upload(bundle, objects)


def _check(objects: ObjectStore, *, force: bool) -> None:
    names = {found.key for found in objects.list()}
    if names - FILES:
        raise BundleError(f"{objects.place} holds other things than a bundle; name a prefix that nothing lies under")
    if names and not force:
        raise BundleError(f"{objects.place} is a bundle already; give --force to replace it, or name another prefix")


def _upload(bundle: Path, objects: ObjectStore) -> None:
    with suppress(FileNotFoundError):  # a bundle that is replaced leaves its records of looks at test parts
        metrics = with_openings_of(json.loads((bundle / METRICS).read_bytes()), objects.get(METRICS))
        write_file(bundle / METRICS, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")
    present = FILES.intersection(entry.name for entry in bundle.iterdir())
    objects.delete([CONFIG, *sorted(FILES - present)])
    for name in (*sorted(present - {CONFIG}), CONFIG):
        objects.put(name, (bundle / name).read_bytes())


def _download(objects: ObjectStore, cache: Path) -> Path:
    """The bundle's folder in `cache`: its weights from there where they are whole, its records those of both places."""
    config, metrics = _get(objects, CONFIG), _get(objects, METRICS)
    folder = cache / hashlib.sha256(config).hexdigest()
    if not _is_whole(folder):
        files = {name: _get(objects, name) for name in files_of(config)}
        cache.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(cache):
            if not _is_whole(folder):  # Another process may have been faster, and recorded a look in it.
                write_folder(folder, {**files, CONFIG: config, METRICS: metrics})
    merge_metrics(folder, metrics)
    return folder


def _send(objects: ObjectStore, folder: Path) -> None:
    """Merge the records of `folder` and of S3 in both places, unless another bundle has replaced it there meanwhile."""
    if hashlib.sha256(_get(objects, CONFIG)).hexdigest() != folder.name:
        return
    merge_metrics(folder, _get(objects, METRICS))
    objects.put(METRICS, (folder / METRICS).read_bytes())


def _is_whole(folder: Path) -> bool:
    try:
        read_bundle(folder)
    except BundleError:
        return False
    return True


def _get(objects: ObjectStore, name: str) -> bytes:
    try:
        return objects.get(name)
    except FileNotFoundError:
        raise BundleError(f"{objects.place} is not a bundle: it has no {name}") from None
