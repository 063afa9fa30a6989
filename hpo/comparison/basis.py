"""What all contestants share: how the images are split, from the options or from the bundles that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.data import Dataset, SplitOptions
from hpo.errors import BundleError

if TYPE_CHECKING:
    from hpo.delivery.manifest import DataOrigin, Manifest


@dataclass(frozen=True)
class Basis:
    """How images are split, and which share of them may be unreadable."""

    seed: int = 0
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    max_unreadable: float = 0.05

    @property
    def split(self) -> SplitOptions:
        """How parts that the data does not bring are made."""
        return SplitOptions(self.seed, self.val_fraction, self.test_fraction)


def common_basis(origins: Sequence[DataOrigin], **given: Any) -> Basis:
    """What is given and not None; for the rest that of the first bundle, and without one the usual."""
    usual = Basis()
    if origins:
        usual = Basis(**{name: getattr(origins[0], name) for name in vars(usual)})
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def check_basis(label: str, manifest: Manifest, dataset: Dataset, path: Path) -> None:
    """BundleError unless `label` was made with the images of `dataset`, which lie at `path`, and the same split."""
    if manifest.data.fingerprint != dataset.fingerprint or manifest.classes != dataset.classes:
        raise BundleError(
            f"{label} was made with other images than {path} (fingerprint {manifest.data.fingerprint[:12]}, "
            f"here {dataset.fingerprint[:12]}); give the data that it was made with"
        )
    if manifest.data.split != dataset.split:
        raise BundleError(
            f"{label} was made with the split «{manifest.data.split}», but here it is «{dataset.split}»: it may have "
            "trained on what would measure it; give the --seed and the fractions that it was made with"
        )
