"""The packed set: every readable image of a source, decoded once, in a memory map that all processes of a host share.

    <cache>/<name>-<size>px-<key>/images.u8       (M, S, S, 3) uint8, raw
    <cache>/<name>-<size>px-<key>/manifest.json   names, labels, digests, what was skipped

The key is made of what lies at the path by name, size, times and inode, so a later run or another worker opens the pack
without reading an image, and a file that was exchanged for another is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hpo.data import digests
from hpo.data.cache import exclusive, place, refuse_too_little_space, write_synced
from hpo.data.dataset import Images, Labels, Part
from hpo.data.decode import pillow_unheard
from hpo.data.depth import FULL
from hpo.data.manifest import VERSION, Manifest, ManifestDraft
from hpo.data.pipeline import decode_all
from hpo.data.records import Listing, Source

Progress = Callable[[int, int], None]
"""Called with (images done, images in all), in the caller's thread."""

_MANIFEST_BYTES = 512
"""Rough size of one image's entry in the manifest, names of some length included."""


@dataclass(frozen=True)
class Pack:
    """An open pack."""

    images: Images
    """(M, S, S, 3) uint8, a read-only view of the file."""
    manifest: Manifest

    def part(self, rows: Labels) -> Part:
        """The rows (n,) int64 as a part."""
        manifest = self.manifest
        names = [manifest.names[row] for row in rows]
        digests = [(manifest.stored[row], manifest.pixels[row]) for row in rows]
        return Part(self.images, rows, manifest.label_array[rows], names, digests)


def open_pack(
    source: Source,
    size: int,
    cache: Path,
    *,
    white: int | None = None,
    check: Callable[[Listing], None] | None = None,
    progress: Progress | None = None,
) -> Pack:
    """The pack of a source at S = `size`, made first if there is none, by one process while the others wait.

    `white` is the white level of 16-bit images that a study or a model has; None takes the data set's own (`depth`).
    `check` sees the listing before any image is read, and only when the pack must be made. Raises DataError for what is
    wrong with the source, the cache or the disk; then, as after Ctrl-C, nothing half-made is left.
    """
    own = _opened(source, size, None, cache, check, progress)
    if white is None or own.manifest.white_level in (None, white):
        return own
    return _opened(source, size, white, cache, check, progress)


def _opened(
    source: Source,
    size: int,
    white: int | None,
    cache: Path,
    check: Callable[[Listing], None] | None,
    progress: Progress | None,
) -> Pack:
    """As `open_pack`, with a pack of its own for each white level that is asked for."""
    key = digests.of_lines([source.key(), str(size), str(VERSION), *([str(white)] if white else [])])
    folder = cache / f"{source.path.resolve().stem}-{size}px-{key[:16]}"
    if pack := _read(folder, size):
        return pack
    with exclusive(cache):
        pack = _read(folder, size)
        if pack is None:
            _make(source, _How(size, white), folder, check, progress)
            pack = _read(folder, size)
    if pack is None:
        raise RuntimeError(f"the pack {folder} cannot be read right after it was written")
    return pack


def _read(folder: Path, size: int) -> Pack | None:
    """The pack in a folder, or None where there is no whole one."""
    try:
        manifest = Manifest.from_json((folder / "manifest.json").read_text())
        shape = (len(manifest), size, size, 3)
        if (folder / "images.u8").stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        if not len(manifest):
            return Pack(np.zeros(shape, np.uint8), manifest)
        images = np.memmap(folder / "images.u8", np.uint8, mode="r", shape=shape)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    # A plain view: rows taken from np.memmap itself cost a Python call each.
    return Pack(np.asarray(images), manifest)


@dataclass(frozen=True)
class _How:
    """How images are decoded."""

    size: int
    white: int | None


def _make(
    source: Source, how: _How, folder: Path, check: Callable[[Listing], None] | None, progress: Progress | None
) -> None:
    listing = source.listing()
    if check:
        check(listing)
    refuse_too_little_space(folder.parent, len(listing.records) * (how.size * how.size * 3 + _MANIFEST_BYTES))

    def fill(temporary: Path) -> None:
        draft = _written(source, listing, how, temporary / "images.u8", progress)
        if how.white is None and draft.own_white not in (None, FULL):
            # Which value is white is known when all are read: images of 16 bits that use fewer are decoded once more.
            (temporary / "images.u8").unlink()
            again = _How(how.size, draft.own_white)
            draft = _written(source, listing, again, temporary / "images.u8", progress)
        write_synced(temporary / "manifest.json", iter([draft.finish().to_json().encode()]))

    place(folder, fill)


def _written(source: Source, listing: Listing, how: _How, path: Path, progress: Progress | None) -> ManifestDraft:
    """Write the pixels; the manifest of what was written is returned."""
    draft = ManifestDraft(how.size, listing.classes, listing.left_out, listing.notes, how.white, listing.written)
    with closing(_packed(source, listing, how, draft, progress)) as pixels:
        write_synced(path, pixels)
    return draft


def _packed(
    source: Source, listing: Listing, how: _How, draft: ManifestDraft, progress: Progress | None
) -> Generator[memoryview, None, None]:
    """The pixels of the readable images, one after the other; the draft learns of all of them."""
    records = iter(listing.records)
    done = 0
    decoding = partial(decode_all, size=how.size, chunk=source.chunk, white=how.white)
    with pillow_unheard(), source.reads() as reads, closing(decoding(reads)) as chunks:
        for chunk in chunks:
            for decoded in chunk:
                draft.add(next(records), decoded)
                if decoded.pixels is not None:
                    yield decoded.pixels.data
            done += len(chunk)
            if progress:
                progress(done, len(listing.records))
