"""Commands to paste into a shell, as messages, pages and tables name them."""

from __future__ import annotations

import shlex


def hint(command: str, *arguments: object, **options: object) -> str:
    """Return `hpo COMMAND ARGUMENT… --option VALUE…`, quoted so that a shell gives each word back unchanged.

    An option that is None is left out, one that is True has no value. An argument that begins with `-` comes after
    `--`, since a command line takes it for an option.
    """
    flags: list[str] = []
    for name, value in options.items():
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    words = list(map(str, arguments))
    if any(word.startswith("-") for word in words):
        return shlex.join(["hpo", command, *flags, "--", *words])
    return shlex.join(["hpo", command, *words, *flags])
