"""Digests: of stored bytes, of pixels, of a listing by name and stamp, of a whole data set by content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from hpo.data.dataset import Images
from hpo.data.records import Payload

_BYTES = 16

_STRIP_PIXELS = 100_000


def of_payload(payload: Payload) -> str:
    """32 hex digits of an image as it is stored: its bytes, or dtype, shape and values of an array."""
    if isinstance(payload, bytes):
        return hashlib.blake2b(payload, digest_size=_BYTES).hexdigest()
    state = hashlib.blake2b(f"{payload.dtype.str}{payload.shape}".encode(), digest_size=_BYTES)
    state.update(np.ascontiguousarray(payload).view(np.uint8).data)
    return state.hexdigest()


def of_image(image: Image.Image) -> str:
    """32 hex digits of an RGB image: its values, width and height. Read in strips, so that no copy is made of it."""
    state = hashlib.blake2b(digest_size=_BYTES)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        state.update(image.crop((0, top, image.width, min(top + rows, image.height))).tobytes())
    state.update(f"{image.width}x{image.height}".encode())
    return state.hexdigest()


def of_pixels(pixels: Images) -> str:
    """32 hex digits of packed pixels (S, S, 3) uint8."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=_BYTES).hexdigest()


def of_lines(lines: Iterable[str]) -> str:
    """32 hex digits of some lines of text; file names that are not UTF-8 are welcome."""
    state = hashlib.blake2b(digest_size=_BYTES)
    for line in lines:
        state.update(line.encode(errors="surrogateescape") + b"\n")
    return state.hexdigest()


def stamp(status: os.stat_result) -> str:
    """What tells a file from the one that lay there before: size, times and inode.

    The time of the last change of content can be set by hand and is kept by copies, so the time of the last change of
    any kind (`ctime`, which the system alone sets) and the inode go with it.
    """
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def of_file(path: Path) -> str:
    """32 hex digits of a file by path and stamp, not by its content."""
    return of_lines([str(path.resolve()), stamp(path.stat())])


def fingerprint(images: Iterable[tuple[str, str, str]]) -> str:
    """64 hex digits of (class name, given part or "", digest of the stored bytes), whatever their order."""
    state = hashlib.sha256()
    for line in sorted("\0".join(image) for image in images):
        state.update(line.encode(errors="surrogateescape") + b"\n")
    return state.hexdigest()
