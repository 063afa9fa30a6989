"""A bundle: a folder that holds a trained classifier and all that is known about it.

    model.safetensors   weights; of an ensemble those of member i as `members.<i>.<tensor>`
    config.json         the manifest, the version of this layout, SHA-256 of the other files but metrics.json, README.md
    metrics.json        what was measured, and the records of test access: see `hpo.bundle.stored_metrics`
    classes.json        {"0": name, "1": name, …}
    validation.npz      labels (n,) int64 and logits (n, C) float32 in the order of the validation part; where known;
                        of an ensemble or a soup also crossed (n, C): each image by members chosen without it;
                        of a study with a robustness altered_rows (m,) and altered (m, C): see `AlteredPredictions`
    images.npy          digests of the images that the model was made with, by part: see `ImageDigests`; where known
    README.md           the model card: see `hpo.bundle.model_card`

Tensors and JSON only, no code. The folder appears whole or not at all, and is checked when read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.bundle.json_files import json_text, parse_json, read_bytes, read_json
from hpo.bundle.manifest import FORMAT, Manifest
from hpo.bundle.model_card import README, card_text, is_card
from hpo.bundle.stored_metrics import METRICS, check_metrics, with_openings_of
from hpo.bundle.validation import AlteredPredictions, Validation, read_validation
from hpo.data import ImageDigests
from hpo.errors import BundleError
from hpo.evaluation.metrics import Logits
from hpo.files import write_folder

MODEL, CONFIG, CLASSES = "model.safetensors", "config.json", "classes.json"

VALIDATION, IMAGES = "validation.npz", "images.npy"

FILES = frozenset({MODEL, CONFIG, METRICS, CLASSES, VALIDATION, IMAGES})
"""All files that a bundle may hold, beside its model card."""


@dataclass(frozen=True)
class Extras:
    """The fields of `Bundle` that only some bundles have."""

    crossed: Logits | None = None
    known: ImageDigests | None = None
    altered: AlteredPredictions | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and checked."""

    path: Path
    manifest: Manifest
    metrics: Mapping[str, Any]
    """The content of metrics.json when it was read."""
    model: bytes
    """safetensors."""
    validation: Validation | None = None
    """Predictions on the validation part, before calibration; of a retrained bundle those of the trial it comes from,
    as its own model has trained on these images. None where they are not known."""
    crossed: Logits | None = None
    """(n, C) float32, of ensembles and soups: the same images, each by members that were chosen without it."""
    known: ImageDigests | None = None
    """The images that the model was made with; None in bundles of earlier versions of hpo."""
    altered: AlteredPredictions | None = None
    """Predictions on altered images of the validation part, where these were made; of the same model as `validation`,
    of an ensemble or a soup those of members that were chosen without the image."""

    @property
    def model_digest(self) -> str:
        """SHA-256 of the weights, by which the record of a test access identifies the model."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def model_file(self) -> Path:
        """The file of the weights."""
        return self.path / MODEL


def read_bundle(path: str | Path) -> Bundle:
    """Read and check the bundle at `path`; every fault raises BundleError with one line."""
    path = Path(path)
    if not path.is_dir():
        raise BundleError(f"{path}: no such folder; `hpo export-best` and `hpo retrain` write bundles")
    values = read_json(path / CONFIG)
    version = values.pop("bundle_format", None)
    if type(version) is not int or version < 1:
        raise BundleError(
            f"{path / CONFIG}: bundle_format is {version!r}, but must be a number from 1 on; not a bundle"
        )
    if version > FORMAT:
        raise BundleError(f"{path}: bundle format {version} is newer than this hpo reads ({FORMAT}); upgrade hpo")
    files = _read_files(path, values.pop("sha256", None))
    manifest = Manifest.from_dict(values, source=str(path / CONFIG))
    stored = files.get(VALIDATION)
    validation, crossed, altered = (
        read_validation(stored, source=path / VALIDATION) if stored is not None else (None, None, None)
    )
    _check_classes(manifest, files, validation, path)
    known = _known_images(files[IMAGES], path / IMAGES) if IMAGES in files else None
    metrics = read_json(path / METRICS)
    check_metrics(metrics, str(path / METRICS))
    return Bundle(path, manifest, metrics, files[MODEL], validation, crossed, known, altered)


def _read_files(path: Path, digests: Any) -> dict[str, bytes]:
    """Read the weights and the other files that `digests` names; BundleError where one is not as it was written."""
    known = digests if isinstance(digests, dict) else {}
    files = {name: read_bytes(path / name) for name in sorted(FILES.intersection(known) | {MODEL})}
    for name, content in files.items():
        if known.get(name) != hashlib.sha256(content).hexdigest():
            raise BundleError(f"{path / name}: its checksum is not the one in {CONFIG}; copy or export it again")
    return files


def _check_classes(manifest: Manifest, files: Mapping[str, bytes], validation: Validation | None, path: Path) -> None:
    """Raise BundleError where classes.json or the predictions have other classes than the manifest."""
    count = len(manifest.classes)
    if CLASSES in files:
        names = parse_json(files[CLASSES], path / CLASSES)
        if names != {str(index): name for index, name in enumerate(manifest.classes)}:
            raise BundleError(f"{path / CLASSES} has other classes than {CONFIG}; copy or export the bundle again")
    if validation is not None and not validation.fits(count):
        raise BundleError(
            f"{path / VALIDATION} holds no finite predictions of {count} classes; export the bundle again"
        )


def _known_images(content: bytes, source: Path) -> ImageDigests:
    try:
        return ImageDigests.from_bytes(content)
    except (ValueError, EOFError) as error:
        raise BundleError(f"{source} cannot be read ({error}); export the bundle again") from None


def write_bundle(
    out: Path,
    manifest: Manifest,
    model: bytes,
    metrics: Mapping[str, Any],
    *,
    validation: Validation | None = None,
    extras: Extras | None = None,
    force: bool = False,
) -> None:
    """Write a bundle to `out`, whole or not at all; raises BundleError as `check_out` does.

    The new bundle keeps the records of test access of a bundle that it replaces.
    """
    check_out(out, force=force)
    extras = extras or Extras()
    if (out / METRICS).is_file():
        metrics = with_openings_of(metrics, (out / METRICS).read_bytes())
    names = {str(index): name for index, name in enumerate(manifest.classes)}
    files = {MODEL: model, CLASSES: json_text(names).encode()}
    if validation is not None:
        files[VALIDATION] = validation.to_bytes(extras.crossed, extras.altered)
    if extras.known is not None:
        files[IMAGES] = extras.known.to_bytes()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    config = {"bundle_format": FORMAT, **manifest.to_dict(), "sha256": digests}
    files |= {CONFIG: json_text(config).encode(), METRICS: json_text(metrics).encode()}
    write_folder(out, {**files, README: card_text(manifest, metrics, digests[MODEL]).encode()})


def check_out(out: Path, *, force: bool) -> None:
    """Raise BundleError unless a bundle may be written to `out`; call it before the work, not only after.

    A missing or empty folder may be filled, a bundle replaced with `force`; nothing else is ever touched.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out} is a file; name a folder that is not there yet")
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return
    own = FILES | ({README} if is_card(out / README) else set())
    if names - own or not _is_manifest(out / CONFIG):
        raise BundleError(f"{out} exists and is not a bundle alone; name a folder that is not there yet")
    if not force:
        raise BundleError(f"{out} is a bundle already; give --force to replace it, or name another folder")


def _is_manifest(path: Path) -> bool:
    try:
        return "bundle_format" in read_json(path)
    except BundleError:
        return False


def files_in_config(config: bytes) -> tuple[str, ...]:
    """Return the files whose digests a config.json holds: with it and metrics.json they are the whole bundle."""
    try:
        digests = json.loads(config)["sha256"]
    except (ValueError, KeyError, TypeError):
        return (MODEL,)
    return tuple(sorted(FILES.intersection(digests) | {MODEL})) if isinstance(digests, dict) else (MODEL,)
