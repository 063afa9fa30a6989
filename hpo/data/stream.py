"""Unlabelled images in any supported form and any number: in batches for `predict`, or a sample of them for `adapt`.

Every file is reported: one that is not an image, or cannot be read, is skipped in its place, with its name and the
reason.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from hpo.data.archives import member_reads, open_zip, visible_members
from hpo.data.arrays import ArraySource, image_members, row_reads
from hpo.data.dataset import Images, Unreadable
from hpo.data.decode import silence_pillow
from hpo.data.folders import read_file, walk
from hpo.data.formats import HEAD_BYTES, SUFFIXES, describe_misnamed_file, is_image
from hpo.data.opening import require_path
from hpo.data.pipeline import Decoded, decode_all
from hpo.data.records import CHUNK, Read
from hpo.data.tables import listed_files
from hpo.errors import DataError


@dataclass(frozen=True)
class Skipped(Unreadable):
    """A file of a batch that gave no image."""

    after: int = 0
    """The number of images of the batch that come before it."""


@dataclass(frozen=True)
class PathList:
    """Paths of image files that come one by one, as from a pipe. They are read as images are needed."""

    paths: Iterable[str]


StrPath = str | os.PathLike[str]

Batch = tuple[list[str], Images, list[Skipped]]

Named = Iterator[tuple[str, Read]]

Files = Iterable[tuple[str, Path]]
"""Names as they were given, with the file of each."""

Decoding = Callable[..., Generator[list[Decoded], None, None]]
"""`decode_all` with a size and a white level."""


def iter_images(
    paths: StrPath | Sequence[StrPath | PathList], size: int, batch: int, white: int | None = None
) -> Iterator[Batch]:
    """Yield names, pixels (b, S, S, 3) uint8 and the skipped files, `batch` images at a time, S = `size`.

    A path is a folder (with all below it), an image, a zip, an `.npz`, or a CSV whose column `path` names images
    relative to its folder. Images are preprocessed as for training, and come in the order of the paths, sorted within a
    folder; one that is named twice comes twice. Every b is `batch` except the last, which may be 0 if only skipped
    files are left. A name is the path as given, then the path below it, after a `:` inside a zip or an `.npz`; a name
    in a list is unchanged. `white` is the white level of 16-bit images, as in `fit`. Raise DataError at once for a path
    that is missing or of no supported kind, and at the end if no image was found; entries of a list are skipped with
    the reason instead.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    decoding = partial(decode_all, size=size, white=white)
    return _batches([_resolve(path) for path in given], decoding, np.empty((batch, size, size, 3), np.uint8))


@dataclass(frozen=True)
class SampledImages:
    """m images, drawn evenly from all that were found and could be read."""

    names: list[str]
    pixels: Images
    """(m, S, S, 3) uint8, RGB."""
    digests: list[tuple[str, str]]
    """m pairs of hex digests, as in `Part`."""
    found: int
    """Images that could be read."""
    unreadable: tuple[Unreadable, ...]


def sample_images(
    paths: Sequence[StrPath | PathList],
    size: int,
    most: int,
    white: int | None = None,
    on_image: Callable[[int], None] = lambda done: None,
) -> SampledImages:
    """Return at most `most` of the images that `iter_images` finds, the same for the same images in the same order.

    All are read, `most` are kept in memory (reservoir sampling); `on_image` gets the number read. Raise DataError as
    `iter_images` does, and where no image can be read.
    """
    generator = np.random.default_rng(0)
    kept: list[tuple[str, Decoded]] = []
    skipped: list[Unreadable] = []
    found = 0
    with closing(_decoded([_resolve(path) for path in paths], partial(decode_all, size=size, white=white))) as images:
        for name, decoded in images:
            if decoded.pixels is None:
                skipped.append(Unreadable(name, decoded.reason))
                continue
            found += 1
            place = len(kept) if len(kept) < most else int(generator.integers(found))
            kept[place : place + 1] = [(name, decoded)] if place < most else kept[place : place + 1]
            on_image(found)
    if not kept:
        why = f"none of {len(skipped)} files can be read ({skipped[0].reason})" if skipped else "there are no images"
        raise DataError(f"{', '.join(map(str, paths))}: {why}; give a folder, a zip or an .npz that holds some")
    return SampledImages(
        names=[name for name, _ in kept],
        pixels=np.stack([decoded.pixels for _, decoded in kept if decoded.pixels is not None]),
        digests=[(decoded.stored, decoded.seen) for _, decoded in kept],
        found=found,
        unreadable=tuple(skipped),
    )


def _resolve(path: StrPath | PathList) -> Path | Files:
    """Return the path after a check, or the files that a list names."""
    if isinstance(path, PathList):
        return ((name, Path(name)) for name in path.paths)
    path = require_path(path, "folder, an image, or a .zip, .npz or .csv file")
    if path.suffix.lower() == ".csv" and path.is_file():
        return listed_files(path)
    if path.is_dir() or path.suffix.lower() in (".zip", ".npz") or is_image(path.name):
        return path
    raise DataError(
        f"{path} is a file, but must be a folder, a .zip, an .npz, a .csv or an image ({', '.join(SUFFIXES)})"
    )


def _batches(paths: list[Path | Files], decoding: Decoding, pixels: Images) -> Iterator[Batch]:
    """Yield the batches; `pixels` is the array for the first."""
    names: list[str] = []
    skipped: list[Skipped] = []
    found = False
    with closing(_decoded(paths, decoding)) as images:
        for name, decoded in images:
            found = True
            if decoded.pixels is None:
                skipped.append(Skipped(name, decoded.reason, after=len(names)))
                continue
            pixels[len(names)] = decoded.pixels
            names.append(name)
            if len(names) == len(pixels):
                yield names, pixels, skipped
                names, skipped, pixels = [], [], np.empty_like(pixels)
    if not found:
        places = ", ".join(str(path) if isinstance(path, Path) else "a list" for path in paths) or "no path"
        raise DataError(f"no images in {places}: give a folder, a zip or an .npz that holds some")
    if names or skipped:
        yield names, pixels[: len(names)], skipped


def _decoded(paths: list[Path | Files], decoding: Decoding) -> Generator[tuple[str, Decoded], None, None]:
    """Yield every image with its name. Zips stay open to the end, because reads run ahead of the results."""
    arrays = [path for path in paths if isinstance(path, Path) and path.suffix.lower() == ".npz"]
    chunk = min([CHUNK, *(ArraySource(path).chunk for path in arrays)])
    names: deque[str] = deque()

    def reads(stack: ExitStack) -> Iterator[Read]:
        for name, read in chain.from_iterable(_named_reads(path, stack) for path in paths):
            names.append(name)
            yield read

    with ExitStack() as stack, closing(decoding(reads(stack), chunk=chunk)) as chunks:
        while some := _next_chunk(chunks):
            for decoded in some:
                yield names.popleft(), decoded


def _next_chunk(chunks: Iterator[list[Decoded]]) -> list[Decoded] | None:
    # Around each step only, because the caller of a generator has warnings of its own in between.
    with silence_pillow():
        return next(chunks, None)


def _named_reads(path: Path | Files, stack: ExitStack) -> Named:
    if not isinstance(path, Path):
        return ((name, partial(read_file, file)) for name, file in path)
    if path.is_dir():
        return _files_below(path)
    if path.suffix.lower() == ".zip":
        return _member_reads(path, stack)
    if path.suffix.lower() == ".npz":
        return _array_row_reads(path, stack)
    return iter([(str(path), partial(read_file, path))])


def _files_below(folder: Path) -> Named:
    for found in walk(folder):
        if not found.is_folder:
            path = folder / found.name
            yield str(path), partial(read_file if found.is_image else _refuse_kind, path)


def _member_reads(path: Path, stack: ExitStack) -> Named:
    archive = stack.enter_context(open_zip(path))
    members = [member for member in visible_members(archive) if not member.info.is_dir()]
    reads = member_reads(archive, [member.info for member in members])
    for member, read in zip(members, reads, strict=True):
        yield f"{path}:{member.name}", read if member.is_image else partial(_refuse_member, read)


def _refuse_kind(path: Path) -> bytes:
    """Raise a DataError that describes a file without the suffix of an image."""
    if not path.is_file():
        return read_file(path)  # raises with the reason
    with path.open("rb") as file:
        raise DataError(describe_misnamed_file(file.read(HEAD_BYTES)))


def _refuse_member(read: Read) -> bytes:
    """Raise a DataError that describes a file in a zip without the suffix of an image."""
    data = read()
    assert isinstance(data, bytes)
    raise DataError(describe_misnamed_file(data[:HEAD_BYTES]))


def _array_row_reads(path: Path, stack: ExitStack) -> Named:
    for _, member in image_members(stack.enter_context(open_zip(path))):
        for row, read in enumerate(row_reads(member)):
            yield f"{path}:{member.key}[{row}]", read
