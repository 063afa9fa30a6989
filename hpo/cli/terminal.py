"""Streams: the characters and the drawing that stdout and stderr can show.

A terminal or pipe that is not UTF-8 gets `*` for ★, ASCII bars and the like, and `\\u4e2d` for other characters; no
command ends because a character cannot be written.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

_SIMILAR = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
    **dict(zip("─━╸╺│┃├└┌┐┘┤┬┴┼", "----||+++++++++", strict=True)),
    **dict(zip("★…–—−‘’“”«»·", "*.---''\"\"\"\".", strict=True)),
    "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "→": "->", "µ": "u", "°": "deg",
}  # fmt: skip

_ERRORS, _ASCII = "hpo_similar", "hpo_ascii"


def prepare_streams() -> None:
    """Let stdout and stderr accept every character, replaced by a similar one where needed. May be called again."""
    codecs.register_error(_ERRORS, _replace)
    codecs.register(_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # click writes UTF-8 to a stream whose codec is called ascii: the same codec under another name stops that.
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if is_ascii else None, errors=_ERRORS)


def can_redraw(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal whose cursor can go back, so that a line can change in place."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace each character that cannot be encoded by a similar one, else by its escape: a codec error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    texts = (_SIMILAR.get(one) or one.encode("ascii", "backslashreplace").decode() for one in characters)
    return "".join(texts), error.end


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    real = codecs.lookup("ascii")
    return codecs.CodecInfo(
        real.encode, real.decode, streamreader=real.streamreader, streamwriter=real.streamwriter,
        incrementalencoder=real.incrementalencoder, incrementaldecoder=real.incrementaldecoder, name=_ASCII,
    )  # fmt: skip
