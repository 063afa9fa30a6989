"""Errors of a search space.

    SpaceError              a space, a dimension or a configuration breaks a rule

A message gives the value, then the rule, then the way out; `source` names the file and key it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class SpaceError(ValueError):
    """A search space or a configuration breaks a rule; `source` is the file and key, or None."""

    def __init__(self, message: str, *, source: str | None = None) -> None:
        self.source = source
        super().__init__(f"{source}: {message}" if source else message)


@contextmanager
def within(key: str) -> Iterator[None]:
    """Prefix the message of a SpaceError raised inside, which begins with a key, with `key.`."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(f"{key}.{error}", source=error.source) from None


def rule_in_words(detail: Mapping[str, Any]) -> str:
    """Return the rule in one of pydantic's errors, as in «must be greater than 0»."""
    message: str = detail["msg"]
    return message.replace("Input should be", "must be", 1).removeprefix("Value error, ")
