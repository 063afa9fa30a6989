"""Many images, decoded in parallel and in order, with a bounded number of them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from hpo.data import digests
from hpo.data.dataset import Images
from hpo.data.decode import plain_image
from hpo.data.records import Read
from hpo.device import cores
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


def decode_all(
    reads: Iterable[Read], size: int, chunk: int, white: int | None = None
) -> Generator[list[Decoded], None, None]:
    """Yield lists of `chunk` decoded images, or fewer if `size` is large, in the order of `reads`.

    `white` is the white level of 16-bit images (`decode.fit`).

    At most two lists per thread are waiting, for any number of reads. Closing the iterator cancels those that have
    not begun.
    """
    # Threads, not processes: Pillow, hashing and reads release the interpreter's lock.
    chunk = max(1, min(chunk, _CHUNK_BYTES // (3 * size * size)))
    threads = min(cores(), _MAX_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        waiting: deque[Future[list[Decoded]]] = deque()
        try:
            for some in _chunks(reads, chunk):
                waiting.append(pool.submit(_decode_chunk, some, size, white))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _chunks(reads: Iterable[Read], count: int) -> Iterator[list[Read]]:
    iterator = iter(reads)
    while some := list(islice(iterator, count)):
        yield some


def _decode_chunk(reads: list[Read], size: int, white: int | None) -> list[Decoded]:
    return [_decode_one(read, size, white) for read in reads]


def _decode_one(read: Read, size: int, white: int | None) -> Decoded:
    stored = ""
    try:
        payload = read()
        stored = digests.of_payload(payload)
        with plain_image(payload) as image:
            pixels = image.centre_square(size, white)
            return Decoded(pixels, "", stored, image.digest(), image.pages, image.largest)
    except DataError as error:
        return Decoded(None, str(error), stored)
    except OSError as error:
        return Decoded(None, f"cannot be opened ({error.strerror or error})", stored)
