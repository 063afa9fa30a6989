"""The record of the data that a study or a model was made with, and the check that data are the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, field_validator, model_serializer

from hpo.data.changes import DataChanges
from hpo.data.dataset import Dataset, Progress, RecordedGroups, WholeData
from hpo.data.depth import FULL
from hpo.data.digests import folds_digest, split_digest
from hpo.data.names import plain, shortened
from hpo.data.opening import open_dataset
from hpo.data.split import SplitOptions
from hpo.errors import DataError, UsageError

_NAMED = 6
"""The number of classes that a message names."""


class DataOrigin(BaseModel):
    """A data set without its path, and its split: enough to recognise the data and to repeat the split.

    Records of earlier versions of hpo lack the digest (None) and the counts per class (empty).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    """The fingerprint of the content, as in `Dataset`."""
    split: str
    """How the parts were made, in words."""
    seed: int
    val_fraction: float
    test_fraction: float
    max_unreadable: float = 0.05
    """The share of images that may be unreadable before the data set is refused."""
    counts: dict[str, int] = {}
    """The number of images of each part."""
    class_counts: dict[str, int] = {}
    """The number of images of each class, in the order of the classes."""
    split_digest: str | None = None
    """The digest of which images validate and which test: see `hpo.data.digests.split_digest`."""
    white_level: int | None = None
    """The value of 16-bit images that became 255, as in `Dataset`; None if there were none, or it was not kept."""
    group_by: str | None = None
    """The column or expression by which images stay together, as in `SplitOptions`."""
    folds: int | None = None
    """The number of folds, as in `SplitOptions`."""
    folds_digest: str | None = None
    """The digest of which images validate in which fold; None without folds, in a bundle, which holds the model of the
    first fold alone, and in records of earlier versions of hpo."""
    every_class: bool | None = None
    """Whether parts of whole groups were given each class, as in `SplitOptions`; None without groups and folds, and in
    records of earlier versions of hpo.
    """
    copies: RecordedGroups | None = None
    """The groups of copies that stay in one part, as in `Dataset`; None in records of earlier versions of hpo, which
    kept equal pixels together and no other copies."""
    findings: dict[str, Any] | None = None
    """The decisions on single images, as `DataChanges.to_json` gives them; None without any."""
    unchanged_fingerprint: str | None = None
    """The fingerprint of the data without these decisions; None where there are none."""

    @field_validator("findings")
    @classmethod
    def _check_findings(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values is not None:
            DataChanges.from_json(values)
        return values

    @model_serializer(mode="wrap")
    def _without_empty(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the options that are not used, so that other records stay as earlier versions write them."""
        optional = (
            "group_by", "folds", "folds_digest", "every_class", "copies", "findings", "unchanged_fingerprint",
        )  # fmt: skip
        return {key: value for key, value in serialise(self).items() if key not in optional or value is not None}

    @classmethod
    def of(cls, dataset: Dataset, split: SplitOptions) -> Self:
        """Return the record of `dataset`, which was opened with `split`."""
        return cls(
            fingerprint=dataset.fingerprint,
            split=dataset.split,
            seed=split.seed,
            val_fraction=split.val_fraction,
            test_fraction=split.test_fraction,
            max_unreadable=split.max_unreadable,
            counts=images_by_part(dataset),
            class_counts=images_by_class(dataset),
            split_digest=split_digest(dataset),
            white_level=dataset.white_level,
            group_by=split.group_by,
            folds=split.folds,
            folds_digest=folds_digest(dataset),
            every_class=(split.every_class or None) if split.group_by or split.folds else None,
            copies=dataset.copies,
            findings=dataset.changes.to_json() or None,
            unchanged_fingerprint=dataset.unchanged_fingerprint or None,
        )

    @classmethod
    def from_spec(cls, data: Mapping[str, Any], fingerprint: str) -> Self:
        """Read the data of a study's spec, which holds more than these fields (the classes)."""
        return cls(fingerprint=fingerprint, **{key: data[key] for key in cls.model_fields if key in data})

    def to_spec(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the data of a study's spec, without the fingerprint."""
        return {"classes": list(classes), **self.model_dump(mode="json", exclude={"fingerprint"})}

    @property
    def options(self) -> SplitOptions:
        """The settings for parts that the data set does not bring."""
        return SplitOptions(
            self.seed, self.val_fraction, self.test_fraction, self.max_unreadable, self.group_by, self.folds,
            self.copies or (), bool(self.every_class),
        )  # fmt: skip

    @property
    def changes(self) -> DataChanges:
        """The decisions on single images."""
        return DataChanges.from_json(self.findings or {})

    @property
    def white(self) -> int:
        """The white level for other images: the recorded one, else 65535, which earlier versions of hpo used."""
        return self.white_level or FULL

    def reopen(
        self,
        path: str | os.PathLike[str],
        *,
        image_size: int,
        cache: Path,
        changed: bool = True,
        progress: Progress | None = None,
    ) -> Dataset:
        """Open the data at `path` with the same split settings, and where `changed` with the same decisions on images.

        The caller checks whether they are the same data.
        """
        try:
            return open_dataset(
                path, image_size=image_size, cache=cache, split=self.options, white_level=self.white,
                changes=self.changes if changed else None, progress=progress,
            )  # fmt: skip
        except UsageError as error:  # the option was given then, not now
            raise DataError(f"the split was made with --group-by {self.group_by!r}, but here {error}") from None

    def is_base_of(self, data: Dataset | WholeData) -> bool:
        """Return whether `data`, with no decisions applied, hold the images that the recorded data came from."""
        base = self.unchanged_fingerprint or self.fingerprint
        return base in (data.fingerprint, data.earlier_fingerprint)

    def is_of(self, data: Dataset | WholeData) -> bool:
        """Return whether `data` hold the recorded images, classes and given parts."""
        # Earlier versions of hpo took the name of a class as it is written, with its Unicode form and the blanks around
        # it; `earlier_fingerprint` is theirs.
        return self.fingerprint in (data.fingerprint, data.earlier_fingerprint)

    def refuse_other_images(
        self, dataset: Dataset, path: str | os.PathLike[str], *, maker: str, way_out: str, classes: Iterable[str] = ()
    ) -> None:
        """Raise DataError if `dataset`, from `path`, is not the data that `maker` was made with; name the differences.

        `classes` are those of the maker, for records without counts per class.
        """
        if not self.is_of(dataset):
            if self.is_base_of(dataset) or (dataset.changes and self.fingerprint == dataset.unchanged_fingerprint):
                raise DataError(
                    f"{maker} was made with {_decisions(self.changes)}, but here it is {_decisions(dataset.changes)}; "
                    f"{way_out}"
                )
            raise DataError(
                f"{maker} was made with other images than {path}: {self.differences(dataset, classes)} "
                f"(fingerprint {self.fingerprint[:12]}, here {dataset.fingerprint[:12]}); {way_out}"
            )

    def refuse_other_split(
        self, dataset: Dataset, path: str | os.PathLike[str], *, options: SplitOptions, maker: str, way_out: str
    ) -> None:
        """Raise DataError if the same images, opened with `options`, are not split as they were for `maker`.

        Without a recorded digest of the split (see `split_is_known`) the options and the words are compared.
        """
        if self.split_digest is None:
            differs = self.split != dataset.split and self.options != options
        else:
            differs = self.split_digest != split_digest(dataset) or self._deals_other_folds(dataset)
        if not differs:
            return
        difference = f"but here it is «{dataset.split}»"
        if self.split == dataset.split:
            difference = (
                "but here other images validate or test, as another version of hpo or of its libraries split them"
            )
        raise DataError(
            f"{maker} was made with the split «{self.split}», {difference}: images of {path} that it trained on would "
            f"measure it; {way_out}"
        )

    def _deals_other_folds(self, dataset: Dataset) -> bool:
        return self.folds_digest is not None and self.folds_digest != folds_digest(dataset)

    @property
    def split_is_known(self) -> bool:
        """Whether a digest of the split is recorded; studies and models of earlier versions of hpo have none."""
        return self.split_digest is not None

    def differences(self, dataset: Dataset, classes: Iterable[str] = ()) -> str:
        """Describe how `dataset` differs from the record, as far as that is known."""
        before, after = self.class_counts, images_by_class(dataset)
        found = [
            *_class_changes(tuple(before) or tuple(classes), tuple(after)),
            *_images(sum((before or self.counts).values()), sum(after.values())),
        ]
        if before and not found:
            found = [f"{name} {_difference(after[name] - n)}" for name, n in before.items() if after[name] != n][
                :_NAMED
            ]
        parts = images_by_part(dataset)
        if self.counts and not found and parts != self.counts:
            found = [f"as many images in other parts ({_parts(parts)}; then {_parts(self.counts)})"]
        return ", ".join(found) or "as many images of the same classes, but not the same ones or in other parts"


def _decisions(changes: DataChanges) -> str:
    return f"the data {changes.line()}" if changes else "the data as they are, nothing left out by findings"


def images_by_part(dataset: Dataset) -> dict[str, int]:
    """Return the number of images of each part. Counting the test part does not open it."""
    return {"train": len(dataset.train), "val": len(dataset.val), "test": dataset.test_count}


def images_by_class(dataset: Dataset) -> dict[str, int]:
    """Return the number of images of each class in all parts together."""
    totals = np.sum(list(dataset.class_counts().values()), axis=0).tolist()
    return dict(zip(dataset.classes, totals, strict=True))


def _class_changes(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Describe new, missing and respelled classes; `before` is empty where the classes are not known."""
    here, then = set(map(plain, after)), set(map(plain, before))
    return [
        *_classes("new", [name for name in after if before and plain(name) not in then]),
        *_classes("gone", [name for name in before if plain(name) not in here]),
        *_changed_spelling([name for name in before if name not in after and plain(name) in here]),
    ]


def _classes(state: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = shortened([repr(name) for name in names], _NAMED)
    return [f"class {shown} is {state}" if len(names) == 1 else f"classes {shown} are {state}"]


def _changed_spelling(names: Sequence[str]) -> list[str]:
    """Describe names that differ only in Unicode form or in blanks around them."""
    if not names:
        return []
    shown = ", ".join(map(ascii, names[:_NAMED]))
    return [
        f"class names were taken as written ({shown}), and are now in the Unicode form NFC without blanks around "
        "them, which makes other classes of them or another order"
    ]


def _images(before: int, after: int) -> list[str]:
    if not before or before == after:
        return []
    images = "image" if abs(after - before) == 1 else "images"
    return [f"{abs(after - before):,} {images} {'more' if after > before else 'fewer'} ({after:,}, then {before:,})"]


def _difference(difference: int) -> str:
    return f"{abs(difference):,} {'more' if difference > 0 else 'fewer'}"


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
