"""A pack as decisions on single images leave it: without dropped ones, with other labels, groups and parts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hpo.data.changes import DataChanges
from hpo.data.names import plain, shortened
from hpo.data.pack import Pack, PackManifest
from hpo.data.records import PARTS
from hpo.errors import DataError

T = TypeVar("T")


def change_pack(pack: Pack, changes: DataChanges | None, where: str) -> Pack:
    """Return the pack with the images that stay, their labels and given parts; `where` names the data in messages.

    Raise DataError for a file or class that the data lack, and where a class or a given part loses all its images.
    """
    if not changes:
        return pack
    manifest = pack.manifest
    _refuse_unknown(changes, manifest, where)
    rows = np.array([row for row, name in enumerate(manifest.names) if name not in changes.drops], dtype=np.int64)
    changed = _changed_manifest(manifest, changes, rows)
    _refuse_emptied(manifest, changed, changes)
    return replace(pack, manifest=changed, rows=rows if pack.rows is None else pack.rows[rows], folder=None)


def groups_of(manifest: PackManifest, changes: DataChanges | None) -> list[str]:
    """Return the name of each image's group: duplicates, and images that the changes put into one part."""
    if not changes or not changes.groups:
        return manifest.groups
    return joined_groups(manifest.groups, [changes.groups.get(name) for name in manifest.names])


def joined_groups(groups: Sequence[str], keys: Iterable[str | None]) -> list[str]:
    """Return the groups (n) of images, joined where images have one key (n; None for none).

    A joined group has the least of the names, so it depends neither on the order nor on the keys.
    """
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while (above := parent[group]) != group:
            parent[group] = parent[above]
            group = parent[group]
        return group

    first: dict[str, str] = {}
    for group, key in zip(groups, keys, strict=True):
        if key is not None:
            one, other = root(group), root(first.setdefault(key, group))
            parent[max(one, other)] = min(one, other)
    return [root(group) for group in groups]


def _changed_manifest(manifest: PackManifest, changes: DataChanges, rows: npt.NDArray[np.int64]) -> PackManifest:
    """Return the manifest of the images that stay, with their labels, parts and fingerprint as changed."""
    number = {name: position for position, name in enumerate(manifest.classes)}
    labels = [
        number[plain(changes.relabels[name])] if name in changes.relabels else label
        for name, label in zip(manifest.names, manifest.labels, strict=True)
    ]
    given = [
        changes.parts.get(name, part) if part else part
        for name, part in zip(manifest.names, manifest.given, strict=True)
    ]
    lines = list(_action_lines(manifest, changes, labels))
    return replace(
        manifest,
        names=_at(manifest.names, rows),
        labels=_at(labels, rows),
        given=_at(given, rows),
        stored=_at(manifest.stored, rows),
        pixels=_at(manifest.pixels, rows),
        unreadable=tuple(image for image in manifest.unreadable if image.name not in changes.drops),
        fingerprint=_fingerprint(manifest.fingerprint, lines),
        earlier_fingerprint=_fingerprint(manifest.earlier_fingerprint, lines),
    )


def _at(values: Sequence[T], rows: npt.NDArray[np.int64]) -> tuple[T, ...]:
    return tuple(values[row] for row in rows)


def _action_lines(manifest: PackManifest, changes: DataChanges, labels: Sequence[int]) -> Iterable[str]:
    """Yield class, digest and action of each image that is dropped, moved, or gets another label."""
    for row, name in enumerate(manifest.names):
        dropped, part = name in changes.drops, changes.parts.get(name)
        actions = ["drop"] if dropped else []
        if not dropped and labels[row] != manifest.labels[row]:
            actions.append(f"relabel:{manifest.classes[labels[row]]}")
        if not dropped and part and manifest.given[row] not in (None, part):
            actions.append(f"part:{part}")
        if actions:
            yield "\0".join([manifest.classes[manifest.labels[row]], manifest.stored[row], *actions])


def _fingerprint(base: str, lines: Sequence[str]) -> str:
    """Return 64 hex digits of a fingerprint and of what is changed; the fingerprint itself where nothing is."""
    if not base or not lines:
        return base
    return hashlib.sha256("\n".join([base, *sorted(lines)]).encode()).hexdigest()


def _refuse_unknown(changes: DataChanges, manifest: PackManifest, where: str) -> None:
    known = {*manifest.names, *(image.name for image in manifest.unreadable)}
    if missing := sorted(changes.files - known):
        images = "image" if len(missing) == 1 else "images"
        raise DataError(
            f"{changes.source or 'findings'} names {len(missing):,} {images} that {where} lacks: "
            f"{shortened(missing)}; give the data that it was made for, with the same names"
        )
    if unknown := sorted({plain(name) for name in changes.relabels.values()} - {*manifest.classes}):
        raise DataError(
            f"{changes.source or 'findings'} relabels images to {unknown[0]!r}, which is no class of {where}: "
            f"it has {shortened(list(manifest.classes), 12)}"
        )


def _refuse_emptied(before: PackManifest, after: PackManifest, changes: DataChanges) -> None:
    """Raise DataError where the changes leave a class with fewer than two images, or a given part with none."""
    source, way_out = changes.source or "findings", "change some of these actions to keep"
    had, has = Counter(before.labels), Counter(after.labels)
    for number, name in enumerate(before.classes):
        if has[number] < 2 <= had[number]:
            left = "one" if has[number] else "none"
            raise DataError(
                f"{source} leaves {left} of the {had[number]:,} images of class {name!r}, but 2 are needed: {way_out}"
            )
    for part in PARTS:
        if part in before.given and part not in after.given:
            raise DataError(f"{source} leaves none of the images of the given part {part}: {way_out}")
