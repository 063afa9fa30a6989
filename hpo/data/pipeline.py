"""Many images decoded in parallel, in order, with a bounded number of them in memory."""

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
    """One image, or why there is none."""

    pixels: Images | None
    """(S, S, 3) uint8, or None."""
    reason: str
    """Why it cannot be read; empty when it can."""
    stored: str
    """Digest of the stored bytes; empty where they could not be had."""
    seen: str = ""
    """Digest of the image at its stored size, whatever `size` is; empty where there is none."""
    pages: int = 1
    """Pages or frames of the file, of which the first was taken."""
    largest: int | None = None
    """The largest value of 16 bits, where the file does not say which is white; else None."""


def decode_all(
    reads: Iterable[Read], size: int, chunk: int, white: int | None = None
) -> Generator[list[Decoded], None, None]:
    """Lists of `chunk` decoded images, or fewer where `size` is large, in the order of `reads`.

    `white` is the white level of 16-bit images (`decode.fit`).

    Threads, not processes: Pillow, hashing and reads let go of the interpreter's lock. At most two lists per thread
    are waiting, whatever the number of reads. Closing the iterator cancels what has not begun.
    """
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
