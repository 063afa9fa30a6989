"""Many images, decoded in parallel and in order, with a bounded number of them in memory."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from hpo.data import digests
from hpo.data.dataset import Images
from hpo.data.decode import plain_image
from hpo.data.records import Read
from hpo.data.signatures import UnmeasuredSignature, measure_signatures
from hpo.device import cores, in_threads
from hpo.errors import DataError

_MAX_THREADS = 16

_CHUNK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image, or the reason why it cannot be read."""

    pixels: Images | None
    """(S, S, 3) uint8, or None."""
    reason: str
    """The reason why it cannot be read; empty if it can."""
    stored: str
    """The digest of the stored bytes; empty if they could not be read."""
    seen: str = ""
    """The digest of the image at its stored size, for any `size`; empty if there is no image."""
    pages: int = 1
    """The number of pages or frames of the file, of which the first is read."""
    largest: int | None = None
    """The largest 16-bit value of an image that does not state its white level; else None."""
    signature: np.void | None = None
    """One row of `signatures.SIGNATURE`; None if there is no image, or if signatures were not asked for."""


def decode_all(
    reads: Iterable[Read], size: int, chunk: int, white: int | None = None, *, signatures: bool = False
) -> Generator[list[Decoded], None, None]:
    """Yield lists of `chunk` decoded images, or fewer if `size` is large, in the order of `reads`.

    `white` is the white level of 16-bit images (`decode.fit`); `signatures` asks for the signature of each image.

    At most two lists per thread are waiting, for any number of reads. Closing the iterator cancels those that have
    not begun.
    """
    # Threads, not processes: Pillow, hashing and reads release the interpreter's lock.
    chunk = max(1, min(chunk, _CHUNK_BYTES // (3 * size * size)))
    threads = min(cores(), _MAX_THREADS)

    def decode(some: list[Read]) -> list[Decoded]:
        return _decode_chunk(some, size, white, signatures)

    yield from in_threads(decode, _chunks(reads, chunk), threads, ahead=2 * threads, name="decode")


def _chunks(reads: Iterable[Read], count: int) -> Iterator[list[Read]]:
    iterator = iter(reads)
    while some := list(islice(iterator, count)):
        yield some


def _decode_chunk(reads: list[Read], size: int, white: int | None, signatures: bool) -> list[Decoded]:
    taken: list[UnmeasuredSignature] = []
    decoded = [_decode_one(read, size, white, taken if signatures else None) for read in reads]
    rows = iter(measure_signatures(taken))
    return [replace(one, signature=next(rows)) if signatures and one.pixels is not None else one for one in decoded]


def _decode_one(read: Read, size: int, white: int | None, taken: list[UnmeasuredSignature] | None) -> Decoded:
    """Decode one image; append what its signature is made of to `taken`."""
    stored = ""
    try:
        payload = read()
        stored = digests.of_payload(payload)
        with plain_image(payload) as image:
            pixels = image.centre_square(size, white)
            decoded = Decoded(pixels, "", stored, image.digest(pixels), image.pages, image.largest)
            if taken is not None:
                taken.append(image.signature(white, pixels))
            return decoded
    except DataError as error:
        return Decoded(None, str(error), stored)
    except OSError as error:
        return Decoded(None, f"cannot be opened ({error.strerror or error})", stored)
