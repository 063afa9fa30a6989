"""The places that are written to: room, permission, and that what was written is on the disk."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

from hpo.health.check import Check, amiss, well
from storage import StorageError, format_size, is_url, open_objects

LOW = 10**9
"""Bytes; a study with a few checkpoints of a mid-sized backbone takes about as much."""
_PROBE = b"hpo doctor looks whether it may write here\n"


def check_place(what: str, option: str, place: Path | str) -> Check:
    """Whether `place`, given with `option`, can be written: a folder, or an s3:// URL."""
    return _check_s3(what, str(place)) if is_url(place) else _check_folder(what, option, Path(place))


def _check_folder(what: str, option: str, folder: Path) -> Check:
    tried = folder = folder.absolute()
    try:
        tried = next(parent for parent in (folder, *folder.parents) if parent.exists())
        seconds = _write_synced(tried / f".hpo-doctor-{secrets.token_hex(4)}")
    except OSError as error:
        return amiss(
            what, f"{tried} cannot be written: {error.strerror}",
            f"give write permission or make room there, or name another folder with {option}",
        )  # fmt: skip
    free = shutil.disk_usage(tried).free
    missing = "" if tried == folder else " (not there yet; its parent was tried)"
    detail = f"{folder}{missing}: {format_size(free)} free, written to the disk in {1000 * seconds:.0f} ms"
    if free < LOW:
        return amiss(what, detail, f"make room there, or name another folder with {option}")
    return well(what, detail)


def _write_synced(probe: Path) -> float:
    """Seconds that a small file takes to the disk; it is removed."""
    start = time.perf_counter()
    try:
        with probe.open("xb") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - start
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _check_s3(what: str, url: str) -> Check:
    key = f".hpo-doctor-{secrets.token_hex(4)}"
    start = time.perf_counter()
    try:
        objects = open_objects(url)
        objects.put(key, _PROBE)
        same = objects.get(key) == _PROBE
        objects.delete([key])
    except StorageError as error:
        return amiss(what, error)
    except FileNotFoundError:
        same = False
    if not same:
        return amiss(what, f"{url} does not give back what was just written", "check what serves it: it is no S3")
    return well(what, f"{url}: written, read and removed in {1000 * (time.perf_counter() - start):.0f} ms")
