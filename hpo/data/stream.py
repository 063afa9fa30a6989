"""Unlabelled images in batches, wherever they lie, however many there are: what `predict` reads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from hpo.data.archives import member_reads, open_zip, visible_members
from hpo.data.arrays import ArraySource, image_members, row_reads
from hpo.data.dataset import Images, Unreadable
from hpo.data.decode import pillow_unheard
from hpo.data.folders import read_file, walk
from hpo.data.names import readable
from hpo.data.pipeline import Decoded, decode_all
from hpo.data.records import CHUNK, SUFFIXES, Read, is_image
from hpo.data.sources import existing
from hpo.errors import DataError

Batch = tuple[list[str], Images, list[Unreadable]]
Named = Iterator[tuple[str, Read]]


def iter_images(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], size: int, batch: int
) -> Iterator[Batch]:
    """Names, pixels (b, S, S, 3) uint8 and what was skipped on the way, `batch` images at a time, S = `size`.

    A path is a folder (with all below it), an image, a zip or an `.npz`; images are prepared as those of training are.
    Every b is `batch` but the last, which is 0 where only skipped images were left to tell of. A name is the path as
    given, then the path below it, after a `:` inside a zip or an `.npz`. Raises DataError at once where a path is not
    there or of no use, and at the end where no image was found.
    """
    some = [existing(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    for path in some:
        _refuse_useless(path)
    return _batches(some, size, batch)


def _refuse_useless(path: Path) -> None:
    if not (path.is_dir() or path.suffix.lower() in (".zip", ".npz") or is_image(path.name)):
        raise DataError(f"{path} is a file, but must be a folder, a .zip, an .npz or an image ({', '.join(SUFFIXES)})")


def _batches(paths: list[Path], size: int, batch: int) -> Iterator[Batch]:
    names: list[str] = []
    skipped: list[Unreadable] = []
    pixels = np.empty((batch, size, size, 3), np.uint8)
    found = False
    with closing(_decoded(paths, size)) as images:
        for name, decoded in images:
            found = True
            if decoded.pixels is None:
                skipped.append(Unreadable(name, decoded.reason))
                continue
            pixels[len(names)] = decoded.pixels
            names.append(name)
            if len(names) == batch:
                yield names, pixels, skipped
                names, skipped, pixels = [], [], np.empty_like(pixels)
    if not found:
        raise DataError(f"no images in {', '.join(map(str, paths))}: give a folder, a zip or an .npz that holds some")
    if names or skipped:
        yield names, pixels[: len(names)], skipped


def _decoded(paths: list[Path], size: int) -> Generator[tuple[str, Decoded], None, None]:
    """Every image with its name. Zips stay open to the end, because reads run ahead of what is yielded."""
    chunk = min([CHUNK, *(ArraySource(path).chunk for path in paths if path.suffix.lower() == ".npz")])
    names: deque[str] = deque()

    def reads(stack: ExitStack) -> Iterator[Read]:
        for name, read in chain.from_iterable(_named(path, stack) for path in paths):
            names.append(name)
            yield read

    with ExitStack() as stack, closing(decode_all(reads(stack), size, chunk)) as chunks:
        while some := _next(chunks):
            for decoded in some:
                yield names.popleft(), decoded


def _next(chunks: Iterator[list[Decoded]]) -> list[Decoded] | None:
    """Warnings are silenced around each step only: the caller of a generator has its own in between."""
    with pillow_unheard():
        return next(chunks, None)


def _named(path: Path, stack: ExitStack) -> Named:
    if path.is_dir():
        return (
            (readable(str(path / found.name)), partial(read_file, path / found.name))
            for found in walk(path)
            if found.is_image
        )
    if path.suffix.lower() == ".zip":
        archive = stack.enter_context(open_zip(path))
        members = [member for member in visible_members(archive) if member.is_image]
        reads = member_reads(archive, [member.info for member in members])
        return zip((f"{path}:{readable(member.name)}" for member in members), reads, strict=True)
    if path.suffix.lower() == ".npz":
        return _array_rows(path, stack)
    return iter([(str(path), partial(read_file, path))])


def _array_rows(path: Path, stack: ExitStack) -> Named:
    for _, member in image_members(stack.enter_context(open_zip(path))):
        for row, read in enumerate(row_reads(member)):
            yield f"{path}:{member.key}[{row}]", read
