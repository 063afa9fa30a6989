"""What an argument of `hpo compare` names: a preset with changes, a bundle, or a trial of a study."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hpo.bundle.bundle import CONFIG
from hpo.errors import UsageError
from storage import is_url


@dataclass(frozen=True)
class PresetRef:
    """A search space, by name or file, of which one configuration is trained."""

    label: str
    space: str
    changes: tuple[str, ...] = ()
    """`key=value` texts: what differs from the space's own configuration."""


@dataclass(frozen=True)
class BundleRef:
    """A finished model: a folder, or an s3:// URL."""

    label: str
    place: Path | str


@dataclass(frozen=True)
class TrialRef:
    """A complete trial of a study in the database."""

    label: str
    study: str
    number: int


ModelRef: TypeAlias = PresetRef | BundleRef | TrialRef

_TRIAL = re.compile(r"(?P<study>.+)#(?P<number>\d+)")

_PRESET = re.compile(r"(?P<space>.+?)(?::(?P<changes>[\w.]+=.*))?")


def read_model_refs(texts: Sequence[str]) -> list[ModelRef]:
    """The contestants that the arguments name, each under a label of its own; UsageError for one named twice."""
    found = [read_model_ref(text) for text in texts]
    counts = Counter(contestant.label for contestant in found)
    unique = [
        contestant if counts[contestant.label] == 1 else _spelled_out(contestant, text)
        for contestant, text in zip(found, texts, strict=True)
    ]
    label, count = Counter(contestant.label for contestant in unique).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{label} is named {count} times; name it once, or change something: {label}:epochs=8")
    return unique


def read_model_ref(text: str) -> ModelRef:
    """`study#7`, a bundle's folder or URL, or a preset: `NAME`, `FILE.yaml`, `NAME:key=value,key=value`."""
    if is_url(text):
        return BundleRef(text.rstrip("/"), text)
    path = Path(text).expanduser()
    if path.is_dir() and ((path / CONFIG).is_file() or path.name != text):
        return BundleRef(path.resolve().name, path)
    if match := _TRIAL.fullmatch(text):
        return TrialRef(text, match["study"], int(match["number"]))
    return _read_preset(text)


def _read_preset(text: str) -> PresetRef:
    match = _PRESET.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} names nothing to compare; give a preset, a bundle's folder, or STUDY#NUMBER")
    space, listed = match["space"], match["changes"] or ""
    if not space.endswith((".yaml", ".yml")) and not Path(space).expanduser().is_file():
        _check_name(space)
    changes = tuple(part.strip() for part in listed.split(",") if part.strip())
    for change in changes:
        if not re.match(r"[\w.]+\s*=", change):
            raise UsageError(f"{text}: {change} must be KEY=VALUE, as in {space}:epochs=8")
    return PresetRef(text, space, changes)


def _check_name(text: str) -> None:
    """UsageError where `text` has the mark of something other than the name of a preset."""
    name, hash_mark, _ = text.partition("#")
    if hash_mark:
        raise UsageError(f"{text}: a trial must be STUDY#NUMBER, as {name or 'cells'}#7")
    name, colon, changes = text.partition(":")
    if colon:
        raise UsageError(f"{text}: {changes!r} after the colon must be KEY=VALUE, as in {name or 'quick'}:epochs=8")
    if Path(text).name != text:
        raise UsageError(f"{text}: no such bundle folder; name one that `hpo export` wrote, or a .yaml file of a space")


def _spelled_out(contestant: ModelRef, text: str) -> ModelRef:
    """A bundle under its whole path, where another's folder has the same name."""
    return BundleRef(text.rstrip("/"), contestant.place) if isinstance(contestant, BundleRef) else contestant
