"""How the images of a comparison are split: by the options, or as for the bundles that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.data import DataOrigin, Dataset, SplitOptions
from hpo.delivery.evaluate import refuse_other_split

if TYPE_CHECKING:
    from hpo.delivery.manifest import Manifest

UNREADABLE = 0.05
"""Share of images that may be unreadable where neither options nor bundles say."""


def common_split(origins: Sequence[DataOrigin], **given: Any) -> SplitOptions:
    """What is given and not None; for the rest that of the first bundle, and without one the usual."""
    usual = origins[0].options if origins else SplitOptions()
    return replace(usual, **_said(given))


def common_unreadable(origins: Sequence[DataOrigin], given: float | None = None) -> float:
    """The share of images that may be unreadable: as given, else as for the first bundle, else the usual."""
    if given is not None:
        return given
    return origins[0].max_unreadable if origins else UNREADABLE


def check_basis(
    label: str, manifest: Manifest, dataset: Dataset, path: Path, options: SplitOptions | None = None
) -> None:
    """DataError unless `label` was made with the images of `dataset`, which lie at `path`, and the same split.

    `options` are those that the data set was opened with; None means those of the bundle.
    """
    way_out = "give the data that it was made with"
    manifest.data.refuse_other_images(dataset, path, maker=label, way_out=way_out, classes=manifest.classes)
    refuse_other_split(manifest, dataset, path, maker=label, options=options)


def _said(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
