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


_OF_TYPE = ("_parsing", "_type", "_from_float", "_parsing_size")

_RULES = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be text",
    "string_too_short": "must not be empty",
}
"""The type of an error of pydantic, or the type of value that it asks for -> the rule."""


def rule_in_words(detail: Mapping[str, Any]) -> str:
    """Return the rule in one of pydantic's errors, as in «must be greater than 0»."""
    rule = _RULES.get(detail["type"].partition("_")[0] if detail["type"].endswith(_OF_TYPE) else detail["type"])
    if rule is not None:
        return rule
    message: str = detail["msg"]
    return message.replace("Input should be", "must be", 1).removeprefix("Value error, ")
