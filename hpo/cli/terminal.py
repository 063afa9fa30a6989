"""What the terminals and pipes can show that hpo writes to: the one place that decides.

A terminal or pipe that is not UTF-8 gets `*` for ★, ASCII bars and the like, and `\u4e2d` for what has no likeness;
no command ends because a character cannot be written.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

_LIKENESS = {
    **dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True)),
    **dict(zip("─━╸╺│┃├└┌┐┘┤┬┴┼", "----||+++++++++", strict=True)),
    **dict(zip("★…–—−‘’“”«»·", "*.---''\"\"\"\".", strict=True)),
    "±": "+-", "×": "x", "≤": "<=", "≥": ">=", "→": "->", "µ": "u", "°": "deg",
}  # fmt: skip

_ERRORS, _ASCII = "hpo_likeness", "hpo_ascii"


def prepare_streams() -> None:
    """Let stdout and stderr take every character, as itself or as what resembles it. May be called again."""
    codecs.register_error(_ERRORS, _likeness)
    codecs.register(_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # click writes UTF-8 to a stream whose codec is called ascii: the same codec under another name stops that.
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if is_ascii else None, errors=_ERRORS)


def can_redraw(stream: TextIO) -> bool:
    """Whether `stream` is a terminal whose cursor can go back, so that a line can change in place."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("", "dumb", "unknown")


def _likeness(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: what resembles each character that cannot be encoded, else its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    texts = (_LIKENESS.get(one) or one.encode("ascii", "backslashreplace").decode() for one in characters)
    return "".join(texts), error.end


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    real = codecs.lookup("ascii")
    return codecs.CodecInfo(
        real.encode, real.decode, streamreader=real.streamreader, streamwriter=real.streamwriter,
        incrementalencoder=real.incrementalencoder, incrementaldecoder=real.incrementaldecoder, name=_ASCII,
    )  # fmt: skip
