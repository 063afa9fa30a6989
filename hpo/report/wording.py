"""Numbers and names as text for readers."""

from __future__ import annotations

import math

MINUTE, HOUR, DAY = 60, 3_600, 86_400


def span(seconds: float) -> str:
    """Return a text such as `48 s`, `3 min 20 s`, `5 h 02 min`, `2 d 4 h`; below ten seconds with a decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    if whole < DAY:
        return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"
    return f"{whole // DAY} d {whole % DAY // HOUR} h"


def rough(seconds: float) -> str:
    """Return a text such as `48 s`, `24 min`, `5.0 h`, `2.2 d`."""
    for unit, factor in (("d", DAY), ("h", HOUR)):
        if seconds >= factor:
            return f"{seconds / factor:.1f} {unit}"
    return f"{seconds / MINUTE:.0f} min" if seconds >= MINUTE else f"{seconds:.0f} s"


def size(count: float) -> str:
    """Return bytes as text such as `812 MB`, `1.4 GB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            value = count / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{count:.0f} B"


def percent(share: float, digits: int = 0) -> str:
    """Return a text such as `7 %`, `2.1 %`."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def confidence(probability: float) -> str:
    """Return a probability that is never rounded to 100 %: `84 %`, `99.6 %`, `> 99.9 %`."""
    if probability > 0.999:
        return f"> {percent(0.999, 1)}"
    return percent(probability, 1 if probability >= 0.99 else 0)


def value(given: object) -> str:
    """Return a setting: four significant digits of a float, other values as a space file has them."""
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, float):
        return f"{given:.4g}" if math.isfinite(given) else str(given)
    return "none" if given is None else str(given)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a text such as `1 trial`, `5,000 trials`, `2 classes`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Return the text with control characters and bytes that are not UTF-8 replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def shortened(text: str, most: int) -> str:
    """Return the printable text in at most `most` characters, with its middle left out if it is longer."""
    text = printable(text)
    if len(text) <= most:
        return text
    head = (most - 1) // 2 + (most - 1) % 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
