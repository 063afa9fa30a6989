"""Keep with a bundle its predictions for labelled images that no weight of it was trained on.

A threshold of `predict --accuracy` and the sets of `predict --sets` are proved on such images. Those of the validation
part lie in validation.npz when the bundle is written. Later measurements, above all on the test part, by which nothing
was chosen, are kept in metrics.json as a list under `scored`, one record for each set of images:

    {date, part, images, data, model, clean, altered}

`images` is the digest of the images, `data` the fingerprint of their data set, `model` the digest of the weights;
`clean` and `altered` are base64 of rows of `_ROW`, or null. Altered images are those under the corruptions that a
search may see; those that none sees calibrate nothing. The list may have been written by hand, so it is checked.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from hpo.bundle.bundle import Bundle
from hpo.bundle.json_files import json_text, read_json
from hpo.bundle.stored_metrics import METRICS, SCORED, WAY_OUT, validated
from hpo.errors import BundleError
from hpo.evaluation.conformal import ScoredImages
from hpo.files import exclusive_lock, write_file

MOST_CLEAN, MOST_ALTERED = 20_000, 500
"""Different images of which scores are kept; of more a fixed random sample. One row takes 25 bytes of the file."""

_MOST_TEXT = 100_000_000

_ROW = np.dtype(
    [("label", "<u2"), ("original", "<u4"), ("severity", "u1"), ("true", "<f4"), ("above", "<f4"), ("top", "<f4")]
)


@dataclass(frozen=True)
class StoredScores:
    """A record of metrics.json."""

    date: str
    part: str
    """val or test."""
    images: str
    """Digest of the images of the part."""
    data: str
    """Fingerprint of the data set."""
    model: str
    """Digest of the weights that the scores are of."""
    clean: str | None = None
    altered: str | None = None


def scores_record(
    part: str, images: str, data: str, model: str, *, clean: ScoredImages | None, altered: ScoredImages | None
) -> StoredScores:
    """Return the record of scores of the model with the digest `model`, or of a sample of them."""
    return StoredScores(
        datetime.now(UTC).isoformat(timespec="seconds"), part, images, data, model,
        clean=_packed(_sample(clean, MOST_CLEAN)) if clean is not None else None,
        altered=_packed(_sample(altered, MOST_ALTERED)) if altered is not None else None,
    )  # fmt: skip


def keep_scores(bundle: Path, record: StoredScores) -> None:
    """Write the record into the bundle's metrics.json, in place of one of the same images; OSError as for any file.

    Where the record lacks clean or altered images, those of an earlier one of the same model are kept.
    """
    with exclusive_lock(bundle):
        metrics = read_json(bundle / METRICS)
        known = _records(metrics, str(bundle / METRICS))
        for one in known:
            if (one.images, one.model) == (record.images, record.model):
                record = replace(record, clean=record.clean or one.clean, altered=record.altered or one.altered)
        others = [one for one in known if one.images != record.images]
        write_file(bundle / METRICS, json_text({**metrics, SCORED: [asdict(one) for one in (*others, record)]}))


def stored_scores(bundle: Bundle, part: str, *, altered: bool) -> tuple[ScoredImages, str] | None:
    """Return the latest scores of this very model on a part of its own data, and the digest of that part.

    None where there are none. Raises BundleError where metrics.json holds something else in their place.
    """
    source, classes = str(bundle.path / METRICS), len(bundle.manifest.classes)
    own = (bundle.manifest.data.fingerprint, bundle.model_digest, part)
    for one in sorted(_records(bundle.metrics, source), key=lambda one: one.date, reverse=True):
        text = one.altered if altered else one.clean
        if (one.data, one.model, one.part) == own and text:
            return _unpacked(text, classes, source), one.images
    return None


def _records(metrics: Mapping[str, Any], source: str) -> list[StoredScores]:
    return validated(TypeAdapter(list[StoredScores]), metrics.get(SCORED) or [], source, SCORED)


def _sample(images: ScoredImages, most: int) -> ScoredImages:
    """Return the rows of at most so many originals, always the same."""
    originals = np.unique(images.originals)
    if len(originals) <= most:
        return images
    chosen = np.random.default_rng(0).permutation(originals)[:most]
    return images.subset(np.isin(images.originals, chosen))


def _packed(images: ScoredImages) -> str:
    rows = np.empty(len(images), _ROW)
    rows["label"], rows["severity"] = images.labels, images.severity
    rows["original"] = np.unique(images.originals, return_inverse=True)[1]
    rows["true"], rows["above"], rows["top"] = images.true, images.above, images.top
    return base64.b64encode(rows.tobytes()).decode()


def _unpacked(text: str, classes: int, source: str) -> ScoredImages:
    """Return the scores in a record; BundleError where they are none."""
    try:
        content = base64.b64decode(text[:_MOST_TEXT], validate=True)
        rows = np.frombuffer(content, _ROW)
    except (binascii.Error, ValueError) as error:
        raise BundleError(f"{source}: {SCORED}: these are no scores of images ({error}); {WAY_OUT}") from None
    found = ScoredImages(
        labels=rows["label"].astype(np.int64),
        true=rows["true"].astype(np.float64),
        above=rows["above"].astype(np.float64),
        top=rows["top"].astype(np.float64),
        originals=rows["original"].astype(np.int64),
        severity=rows["severity"].astype(np.int64),
    )
    shares = np.concatenate([found.true, found.above, found.top])
    in_range = len(rows) and found.labels.max() < classes and np.isfinite(shares).all()
    if not in_range or shares.min() < 0 or shares.max() > 1.001:
        raise BundleError(f"{source}: {SCORED}: labels or probabilities are out of range; {WAY_OUT}")
    return found
