"""Model references: an argument of `hpo compare` names a preset with changes, a bundle, or a trial of a study."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

from hpo.bundle.bundle import CONFIG
from hpo.errors import UsageError
from search_spaces import space_names
from storage import is_url


@dataclass(frozen=True)
class PresetRef:
    """A search space, by name or file; one configuration of it is trained."""

    label: str
    space: str
    changes: tuple[str, ...] = ()
    """`key=value` texts that replace values of the space's default configuration."""


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
    """Return the references that the arguments name, with unique labels; raise UsageError for one named twice."""
    refs = [read_model_ref(text) for text in texts]
    counts = Counter(ref.label for ref in refs)
    unique = [
        ref if counts[ref.label] == 1 else _with_whole_path(ref, text) for ref, text in zip(refs, texts, strict=True)
    ]
    label, count = Counter(ref.label for ref in unique).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{label} is named {count} times; name it once, or change something: {label}:epochs=8")
    return unique


def read_model_ref(text: str) -> ModelRef:
    """Read `study#7`, a bundle's folder or URL, or a preset: `NAME`, `FILE.yaml`, `NAME:key=value,key=value`."""
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
    """Raise UsageError if `text` looks like a trial, changes or a path rather than the name of a preset."""
    name, hash_mark, _ = text.partition("#")
    if hash_mark:
        raise UsageError(f"{text}: a trial must be STUDY#NUMBER, as {name or 'cells'}#7")
    name, colon, changes = text.partition(":")
    if colon:
        raise UsageError(f"{text}: {changes!r} after the colon must be KEY=VALUE, as in {name or 'quick'}:epochs=8")
    if Path(text).name != text:
        raise UsageError(f"{text}: there is no such bundle; name the folder of one, or the .yaml file of a space")
    if text not in space_names():
        near = get_close_matches(text, space_names(), n=1)
        suggestion = f"did you mean {near[0]}?" if near else "`hpo spaces` lists the presets"
        raise UsageError(
            f"{text} is neither a preset nor the folder of a bundle; {suggestion} (a trial is written STUDY#NUMBER)"
        )


def _with_whole_path(ref: ModelRef, text: str) -> ModelRef:
    """Return a bundle with its whole path as the label, since another's folder has the same name."""
    return BundleRef(text.rstrip("/"), ref.place) if isinstance(ref, BundleRef) else ref
