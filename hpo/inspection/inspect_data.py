"""All checks of the data doctor on one data set, in order: the cheap ones, then those that need embeddings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpo.data.findings import Finding, Findings
from hpo.data.names import shortened
from hpo.errors import HubError, ModelError, UsageError
from hpo.inspection.copies import Copies, copy_findings, find_copies
from hpo.inspection.embedding_map import EmbeddingMap, map_embeddings
from hpo.inspection.embeddings import Embeddings, embed
from hpo.inspection.image_groups import ImageGroups, across_groups, measure_groups
from hpo.inspection.imbalance import Imbalance, measure_imbalance
from hpo.inspection.inspected_data import InspectedData, open_inspected
from hpo.inspection.label_errors import LabelErrors, find_label_errors
from hpo.inspection.leaks import COPY_KINDS, Leaks, find_leaks
from hpo.inspection.odd_images import OddImages, find_odd_images
from hpo.inspection.outliers import Outliers, find_outliers
from hpo.inspection.target import Target, measure_target

BACKBONE = "mobilenetv3_small_050"
"""The backbone of the embeddings where none is named: the smallest of timm's with weights for ImageNet."""

IMAGE_SIZE = 96
"""The side of the images, in pixels, where none is named."""

FEW_IMAGES = 10
"""A class of fewer images is named by the cheap checks."""

StepProgress = Callable[[str, int, int], None]
"""A callback that takes the step, the number done and the total."""


@dataclass(frozen=True)
class InspectionOptions:
    """The settings of an inspection."""

    image_size: int = IMAGE_SIZE
    """Side of the images for the embeddings and the pictures of the page, in pixels."""
    backbone: str | None = None
    """A timm model for the embeddings; None for the one that the weights name, else BACKBONE."""
    weights: Path | None = None
    """A file of its weights; None for those of timm."""
    embeddings: bool = True
    """Whether the checks that need embeddings are made."""
    map: bool = True
    """Whether the map of the embeddings is made."""
    device: str = "cpu"
    group_by: str | None = None
    """The column or expression by which images stay together, as in `hpo.data.SplitOptions`."""


@dataclass(frozen=True)
class DataInspection:
    """The results of the checks on a data set; a check that was not made is None, and `skipped` says why."""

    data: InspectedData
    copies: Copies
    odd: OddImages
    leaks: Leaks
    imbalance: Imbalance
    groups: ImageGroups | None = None
    """The groups that must stay together; None where the data are not grouped."""
    embeddings: Embeddings | None = None
    outliers: Outliers | None = None
    labels: LabelErrors | None = None
    target: Target | None = None
    map: EmbeddingMap | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Check (embeddings, map) -> why it was not made, and how to get it."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Step -> seconds of wall-clock time."""
    options: InspectionOptions = InspectionOptions()

    @property
    def unfetched(self) -> bool:
        """Whether the embeddings are missing because timm's weights could not be fetched."""
        wanted = self.options.embeddings and self.options.weights is None
        return wanted and self.embeddings is None and len(self.data.classes) > 1

    @cached_property
    def findings(self) -> Findings:
        """All findings: first what is surely lost, then the pictures that do not belong, copies, labels, the rest."""
        odd = self.odd.findings
        rows: list[Finding] = [
            *(row for row in odd if row.finding == "unreadable"),
            *(self.outliers.findings if self.outliers else ()),
            *copy_findings(self.data, self.copies),
            *(self.labels.findings if self.labels else ()),
            *self.leaks.findings,
            *(row for row in odd if row.finding != "unreadable"),
        ]
        across = across_groups(self.data, self.copies)
        rows = [
            replace(row, reason=f"{row.reason}; {across[row.file]}")
            if row.finding in ("copy", "conflict") and row.file in across
            else row
            for row in rows
        ]
        return Findings(_one_action_per_name(rows))


def inspect_images(
    path: Path | str, options: InspectionOptions, *, cache: Path, progress: StepProgress | None = None
) -> DataInspection:
    """Make all checks of the data set at `path`; images are packed, and features stored, in the folder `cache`.

    Raise DataError where the data cannot be read as labelled images, ModelError for a wrong backbone or wrong weights.
    Weights of timm that cannot be fetched are no error: what needs them is skipped.
    """
    report = progress or _silent
    seconds: dict[str, float] = {}
    backbone, skipped = _backbone(options)
    with _timed(seconds, "images"):
        data = open_inspected(
            path, image_size=options.image_size, cache=cache, group_by=options.group_by,
            progress=lambda *done: report("images", *done),
        )  # fmt: skip
    found = replace(_cheap_checks(data, seconds, report), options=options)
    if backbone is None or len(data.classes) < 2:
        return replace(found, skipped=skipped or {"embeddings": "there is one class only"})
    from hpo.models.feature_store import FeatureStore

    with _timed(seconds, "embeddings"):
        embeddings = embed(
            data, found.copies, backbone, store=FeatureStore(cache / "features"),
            progress=lambda *done: report("embeddings", *done),
        )  # fmt: skip
    return _embedded_checks(replace(found, embeddings=embeddings), options, seconds, report)


def inspect(  # noqa: PLR0913 - all but the path by name
    data: Path | str,
    *,
    backbone: str | None = None,
    weights: Path | str | None = None,
    image_size: int = IMAGE_SIZE,
    embeddings: bool = True,
    group_by: str | None = None,
    device: str = "cpu",
    cache: Path | str = ".hpo/cache",
) -> Findings:
    """Return what may be wrong with the images and labels of `data`: rows to read, to write, or as a data frame.

    The options are those of `hpo data`; `image_size` is in pixels, `cache` the folder of packed images. `.notes` tells
    of the groups and of what was left out, as checks whose weights cannot be fetched. Raise DataError where the data
    cannot be read as labelled images, ModelError or UsageError for options that cannot serve.
    """
    options = InspectionOptions(
        image_size, backbone, Path(weights) if weights else None, embeddings, map=False, device=device,
        group_by=group_by,
    )  # fmt: skip
    found = inspect_images(data, options, cache=Path(cache))
    notes = [*(found.groups.lines() if found.groups else ())]
    notes += [f"left out: {step}: {reason}" for step, reason in found.skipped.items()]
    return replace(found.findings, notes=tuple(notes))


def check_cheaply(
    path: Path | str, *, image_size: int, cache: Path, progress: StepProgress | None = None
) -> DataInspection:
    """Make the checks that need no embeddings, on images that are packed at `image_size` already."""
    options = InspectionOptions(image_size=image_size, embeddings=False, map=False)
    return inspect_images(path, options, cache=cache, progress=progress)


def cheap_line(found: DataInspection) -> str:
    """Return `12 copies, 3 of them turned or mirrored; 2 blank images`, or "" where the cheap checks find nothing."""
    turned = sum(group.kinds.count("turned") for group in found.copies.groups)
    conflicts = len({row.file for row in found.findings.rows if row.finding == "conflict"})
    leaking = sum(kind in COPY_KINDS for group in found.leaks.groups for kind in group.kinds)
    also = f", {turned:,} of them turned or mirrored" if turned else ""
    counts = {
        f"{_counted(found.copies.extra, 'copy', 'copies')}{also}": found.copies.extra,
        f"{conflicts:,} copies of one picture under several classes": conflicts,
        f"{_counted(leaking, 'image')} in two of the given parts": leaking,
        f"{_counted(found.odd.blank, 'blank image')}": found.odd.blank,
    }
    lines = [line for line, count in counts.items() if count]
    if small := _small_classes(found.data):
        lines.append(f"fewer than {FEW_IMAGES} images of {shortened(small)}")
    return "; ".join(lines)


def _counted(count: int, one: str, several: str | None = None) -> str:
    return f"1 {one}" if count == 1 else f"{count:,} {several or f'{one}s'}"


def _small_classes(data: InspectedData) -> list[str]:
    """Return `name (count)` for the classes with few images."""
    counts = np.bincount(data.labels, minlength=len(data.classes)).tolist()
    return [f"{name} ({count})" for name, count in zip(data.classes, counts, strict=True) if count < FEW_IMAGES]


def _cheap_checks(data: InspectedData, seconds: dict[str, float], report: StepProgress) -> DataInspection:
    report("copies", 0, len(data))
    with _timed(seconds, "copies"):
        copies = find_copies(data, progress=lambda *done: report("copies", *done))
    report("copies", len(data), len(data))
    with _timed(seconds, "other checks"):
        groups = measure_groups(data, copies)
        if groups is not None:
            data = replace(data, summary=replace(data.summary, notes=(*groups.lines(), *data.summary.notes)))
        return DataInspection(
            data, copies, find_odd_images(data), find_leaks(data, copies), measure_imbalance(data), groups,
            seconds=seconds,
        )  # fmt: skip


def _embedded_checks(
    found: DataInspection, options: InspectionOptions, seconds: dict[str, float], report: StepProgress
) -> DataInspection:
    """Add the checks that need embeddings."""
    data, embeddings = found.data, found.embeddings
    assert embeddings is not None
    steps = 5 if options.map else 4
    report("judging", 0, steps)
    with _timed(seconds, "outliers"):
        outliers = find_outliers(data, embeddings)
    report("judging", 1, steps)
    with _timed(seconds, "labels"):
        labels = find_label_errors(data, embeddings, outliers)
    report("judging", 2, steps)
    with _timed(seconds, "target"):
        target = measure_target(embeddings, outliers.dropped)
    report("judging", 3, steps)
    points = embeddings.points[embeddings.groups.group_of]
    with _timed(seconds, "leaks"):
        leaks = find_leaks(data, found.copies, points)
    report("judging", 4, steps)
    found = replace(found, outliers=outliers, labels=labels, target=target, leaks=leaks)
    if not options.map:
        return found
    with _timed(seconds, "map"):
        named = {row.file for row in found.findings.rows}
        marked = np.array([row for row, name in enumerate(data.names) if name in named], dtype=np.int64)
        drawn = map_embeddings(points, marked)
    report("judging", steps, steps)
    return replace(found, map=drawn, skipped={} if drawn else {"map": "there are too few images"})


def _backbone(options: InspectionOptions) -> tuple[Any, dict[str, str]]:
    """Return the backbone of the embeddings, or None and why there is none.

    Raise ModelError for a backbone or weights that cannot be used, UsageError for weights of an unknown architecture.
    """
    if not options.embeddings:
        return None, {"embeddings": "they were not asked for (--no-embeddings)"}
    from hpo.models.architecture import architecture_of
    from hpo.models.frozen_backbone import FrozenBackbone
    from search_spaces import TrialConfig

    name = options.backbone or (architecture_of(options.weights) if options.weights else BACKBONE)
    if name is None:
        raise UsageError(f"--weights {options.weights} do not name their architecture: give --backbone NAME too")
    weights = str(options.weights.resolve()) if options.weights else None
    config = TrialConfig().replace(backbone=name, weights=weights, image_size=options.image_size)
    try:
        return FrozenBackbone(config, device=options.device), {}
    except ModelError as error:
        why, way_out, _ = str(error).partition(": give ")  # the way out is of other commands
        if isinstance(error, HubError) and options.backbone is None:
            return None, {
                "embeddings": f"{why}; give --weights FILE for pictures that do not belong, labels that may be wrong "
                "and what accuracy is in reach"
            }
        if way_out and "--set" in str(error):
            raise type(error)(f"{why}: give --weights FILE, or --no-embeddings") from error
        raise


def _one_action_per_name(rows: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return the findings without a drop of a copy that has the name of the copy which is kept.

    A table may list one file twice; it is one image, which stays.
    """
    kept = {(row.finding, row.group, row.file) for row in rows if row.action == "keep" and row.group}
    return tuple(row for row in rows if row.action == "keep" or (row.finding, row.group, row.file) not in kept)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.monotonic() - started


def _silent(step: str, done: int, total: int) -> None:
    """Show nothing."""
