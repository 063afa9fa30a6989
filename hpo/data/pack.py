"""The packed set: every readable image of a source, decoded once into a memory map that all processes of a host share.

    <cache>/<name>-<size>px-<key>/images.u8        (M, S, S, 3) uint8, raw
    <cache>/<name>-<size>px-<key>/signatures.npy   (M,) of `signatures.SIGNATURE`, the same for every S
    <cache>/<name>-<size>px-<key>/manifest.json    everything else: names, labels, digests, skipped images
    <cache>/<name>-<size>px-<key>/copies.npz       the groups of copies, once they were looked for (`copy_groups`)

The key is made of the names, sizes, times and inodes of the files, so a later run or another worker opens the pack
without reading an image, and a file that was exchanged for another is noticed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpo.data import digests
from hpo.data.cache import atomic_cache_folder, lock_cache, refuse_too_little_space
from hpo.data.dataset import Images, Labels, LeftOut, Part, PartName, Progress, Unreadable
from hpo.data.decode import silence_pillow
from hpo.data.depth import FULL, depth_note, reached_levels, white_level
from hpo.data.names import shortened
from hpo.data.pipeline import Decoded, decode_all
from hpo.data.records import Listing, Record, Source
from hpo.data.signatures import SIGNATURE, SignatureFile, Signatures, open_signatures, signature_file
from hpo.device import one_blas_thread
from hpo.files import write_new_file

VERSION = 6
"""The version of packs. It goes up when decoding, digests or these fields change, so that older packs are remade."""

_NAMED = 3
"""The number of files that a note names."""


@dataclass(frozen=True)
class PackManifest:
    """The readable images of a packed set, one entry per row, and the skipped ones. `from_json(to_json(x)) == x`."""

    image_size: int
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    given: tuple[PartName | None, ...]
    stored: tuple[str, ...]
    """The digests of the stored images."""
    pixels: tuple[str, ...]
    """The digests of the images at their stored size, from `decode.plain_image`: equal ones are duplicates."""
    unreadable: tuple[Unreadable, ...]
    fingerprint: str
    """The digest of the content of all images, including unreadable ones."""
    earlier_fingerprint: str = ""
    """The fingerprint over the class names as they are written, as earlier versions of hpo made it; "" if none differs.
    """
    left_out: tuple[LeftOut, ...] = ()
    """Files and other things in the data set that are not read, by kind."""
    notes: tuple[str, ...] = ()
    """How the data were read, and what is suspicious about them; one line each."""
    white_level: int | None = None
    """The value of 16-bit images that became 255 (`depth`); None if no image needs one."""
    version: int = VERSION

    def __len__(self) -> int:
        return len(self.names)

    @property
    def label_array(self) -> npt.NDArray[np.int64]:
        """(M,) int64 class numbers."""
        return np.array(self.labels, dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        """The name of each image's group of duplicates, which is the same at every image size."""
        first: dict[str, str] = {}
        for pixels, stored in zip(self.pixels, self.stored, strict=True):
            first[pixels] = min(stored, first.get(pixels, stored))
        return [first[pixels] for pixels in self.pixels]

    def to_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PackManifest:
        """Read `to_json`. Raise ValueError, TypeError or KeyError if the text is not a manifest of this version."""
        fields: Mapping[str, Any] = json.loads(text)
        if fields["version"] != VERSION:
            raise ValueError(f"version is {fields['version']}, but must be {VERSION}")
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        unreadable = tuple(Unreadable(**entry) for entry in fields["unreadable"])
        left_out = tuple(LeftOut(**{**entry, "names": tuple(entry["names"])}) for entry in fields["left_out"])
        manifest = cls(**{**fields, **lists, "unreadable": unreadable, "left_out": left_out})
        columns = (manifest.labels, manifest.given, manifest.stored, manifest.pixels)
        if any(len(column) != len(manifest) for column in columns):
            raise ValueError("the columns differ in length")
        return manifest


class PackManifestDraft:
    """A manifest under construction: images are added in the order of the listing."""

    def __init__(
        self,
        image_size: int,
        classes: tuple[str, ...],
        left_out: tuple[LeftOut, ...] = (),
        notes: tuple[str, ...] = (),
        white: int | None = None,
        written: tuple[str, ...] = (),
    ) -> None:
        """Take `left_out`, `notes` and `written` of the listing; `white` is the white level for decoding."""
        self._image_size = image_size
        self._classes = classes
        self._left_out = left_out
        self._notes = list(notes)
        self._rows: list[tuple[Record, Decoded]] = []
        self._unreadable: list[Unreadable] = []
        self._content: list[tuple[int, str, str]] = []
        self._largest: Counter[int] = Counter()
        self._paged: list[tuple[str, int]] = []
        self._white = white
        self._write_images = written

    @property
    def own_white(self) -> int | None:
        """The white level of the 16-bit images that were added so far; None if there are none."""
        return white_level(max(self._largest)) if self._largest else None

    def add(self, record: Record, decoded: Decoded) -> None:
        """Add one image. Its pixels and its signature are not kept."""
        self._content.append((record.label, record.given or "", decoded.stored))
        if decoded.pixels is None:
            self._unreadable.append(Unreadable(record.name, decoded.reason))
        else:
            self._rows.append((record, replace(decoded, pixels=None, signature=None)))
        if decoded.largest is not None:
            self._largest[decoded.largest] += 1
        if decoded.pages > 1:
            self._paged.append((record.name, decoded.pages))

    def note(self, line: str) -> None:
        """Add a line to the notes, unless it is there already."""
        if line not in self._notes:
            self._notes.append(line)

    def finish(self) -> PackManifest:
        """Return the manifest of the images that were added."""
        white = (self._white or self.own_white) if self._largest else None
        if white:
            self.note(depth_note(reached_levels(self._largest), white))
        if self._paged:
            named = shortened([f"{name} ({pages})" for name, pages in self._paged], _NAMED)
            self.note(f"only the first page or frame is taken of files that hold several: {named}")
        return PackManifest(
            image_size=self._image_size,
            classes=self._classes,
            names=tuple(record.name for record, _ in self._rows),
            labels=tuple(record.label for record, _ in self._rows),
            given=tuple(record.given for record, _ in self._rows),
            stored=tuple(decoded.stored for _, decoded in self._rows),
            pixels=tuple(decoded.seen for _, decoded in self._rows),
            unreadable=tuple(self._unreadable),
            fingerprint=self._fingerprint(self._classes),
            earlier_fingerprint=self._fingerprint(self._write_images) if self._write_images else "",
            left_out=self._left_out,
            notes=tuple(self._notes),
            white_level=white,
        )

    def _fingerprint(self, classes: tuple[str, ...]) -> str:
        return digests.fingerprint((classes[label], given, stored) for label, given, stored in self._content)


_MANIFEST_BYTES = 512
"""The approximate size of one image's entry in the manifest."""


@dataclass(frozen=True)
class Pack:
    """A pack that is open."""

    images: Images
    """(M, S, S, 3) uint8, a read-only view of the file."""
    manifest: PackManifest
    signatures: Signatures
    """(M,) of SIGNATURE, a read-only view of the file."""
    rows: Labels | None = None
    """(m,) rows of `images`, one per entry of the manifest; None where the manifest has all M."""
    folder: Path | None = None
    """The folder that holds the files of all M images; None where the manifest has others (`changed_pack`)."""

    def part(self, rows: Labels) -> Part:
        """Return the entries (n,) int64 of the manifest as a part."""
        manifest = self.manifest
        names = [manifest.names[row] for row in rows]
        digests = [(manifest.stored[row], manifest.pixels[row]) for row in rows]
        indices = rows if self.rows is None else self.rows[rows]
        return Part(self.images, indices, manifest.label_array[rows], names, digests)


def open_pack(
    source: Source,
    size: int,
    cache: Path,
    *,
    white: int | None = None,
    check: Callable[[Listing], None] | None = None,
    progress: Progress | None = None,
) -> Pack:
    """Open the pack of a source at S = `size`. If there is none, one process makes it while the others wait.

    `white` is the white level of 16-bit images that a study or a model has; None takes the data set's own (`depth`).
    `check` gets the listing before any image is read, and only when the pack must be made. Raise DataError for faults
    of the source, the cache or the disk. Nothing half-made is left then, nor after Ctrl-C.
    """
    own = _open_or_make(source, size, None, cache, check, progress)
    if white is None or own.manifest.white_level in (None, white):
        return own
    return _open_or_make(source, size, white, cache, check, progress)


def _open_or_make(
    source: Source,
    size: int,
    white: int | None,
    cache: Path,
    check: Callable[[Listing], None] | None,
    progress: Progress | None,
) -> Pack:
    """Open or make the pack for one white level; None is the data set's own."""
    key = digests.of_lines([source.key(), str(size), str(VERSION), *([str(white)] if white else [])])
    folder = cache / f"{source.path.resolve().stem}-{size}px-{key[:16]}"
    if pack := _read_pack(folder, size):
        return pack
    with lock_cache(cache):
        pack = _read_pack(folder, size)
        if pack is None:
            _make_pack(source, _DecodeOptions(size, white), folder, check, progress)
            pack = _read_pack(folder, size)
    if pack is None:
        raise RuntimeError(f"the pack {folder} cannot be read right after it was written")
    return pack


def _read_pack(folder: Path, size: int) -> Pack | None:
    """Return the pack in a folder, or None if there is no whole one."""
    try:
        manifest = PackManifest.from_json((folder / "manifest.json").read_text())
        shape = (len(manifest), size, size, 3)
        if (folder / "images.u8").stat().st_size != np.prod(shape, dtype=np.int64):
            return None
        signatures = open_signatures(folder / "signatures.npy", len(manifest))
        if not len(manifest):
            return Pack(np.zeros(shape, np.uint8), manifest, signatures, folder=folder)
        images = np.memmap(folder / "images.u8", np.uint8, mode="r", shape=shape)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    # A plain view: rows taken from np.memmap itself cost a Python call each.
    return Pack(np.asarray(images), manifest, signatures, folder=folder)


@dataclass(frozen=True)
class _DecodeOptions:
    """The settings for decoding images."""

    size: int
    white: int | None


def _make_pack(
    source: Source,
    how: _DecodeOptions,
    folder: Path,
    check: Callable[[Listing], None] | None,
    progress: Progress | None,
) -> None:
    listing = source.listing()
    if check:
        check(listing)
    row_bytes = how.size * how.size * 3 + SIGNATURE.itemsize + _MANIFEST_BYTES
    refuse_too_little_space(folder.parent, len(listing.records) * row_bytes)

    with atomic_cache_folder(folder) as new:
        draft = _write_images(source, listing, how, new, progress)
        if how.white is None and draft.own_white not in (None, FULL):
            # The white level is known only when all are read: images of 16 bits that use fewer are decoded once more.
            (new / "images.u8").unlink()
            (new / "signatures.npy").unlink()
            again = _DecodeOptions(how.size, draft.own_white)
            draft = _write_images(source, listing, again, new, progress)
        write_new_file(new / "manifest.json", [draft.finish().to_json().encode()])


def _write_images(
    source: Source, listing: Listing, how: _DecodeOptions, folder: Path, progress: Progress | None
) -> PackManifestDraft:
    """Write pixels and signatures into a folder, and return the manifest of the written images."""
    draft = PackManifestDraft(how.size, listing.classes, listing.left_out, listing.notes, how.white, listing.written)
    with one_blas_thread(), signature_file(folder / "signatures.npy", len(listing.records)) as signatures:
        decoded = _decoded_images(source, listing, how, draft, progress)
        with closing(_pixels(decoded, signatures)) as pixels, closing(decoded):
            write_new_file(folder / "images.u8", pixels)
    return draft


def _pixels(images: Iterable[Decoded], signatures: SignatureFile) -> Generator[memoryview, None, None]:
    """Yield the pixels of the readable images, and write their signatures."""
    for decoded in images:
        if decoded.pixels is not None and decoded.signature is not None:
            signatures.add(decoded.signature)
            yield decoded.pixels.data


def _decoded_images(
    source: Source, listing: Listing, how: _DecodeOptions, draft: PackManifestDraft, progress: Progress | None
) -> Generator[Decoded, None, None]:
    """Yield the images, and add them to the draft."""
    records = iter(listing.records)
    done = 0
    decoding = partial(decode_all, size=how.size, chunk=source.chunk, white=how.white, signatures=True)
    with silence_pillow(), source.reads() as reads, closing(decoding(reads)) as chunks:
        for chunk in chunks:
            for decoded in chunk:
                draft.add(next(records), decoded)
                yield decoded
            done += len(chunk)
            if progress:
                progress(done, len(listing.records))
