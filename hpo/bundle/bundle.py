"""A bundle: a folder that holds a trained classifier and all that is known about it.

    model.safetensors   weights; of an ensemble those of member i as `members.<i>.<tensor>`
    config.json         the manifest, the version of this layout, SHA-256 of the other files but metrics.json
    metrics.json        {"validation": report or null, "test": report or null, "test_openings": [opening, …], …};
                        an opening is {date, command, data, test, model, n, accuracy}: see `openings`; it grows, so no
                        digest is kept of it, and a bundle that replaces another keeps what that one knew
    classes.json        {"0": name, "1": name, …}
    validation.npz      labels (n,) int64 and logits (n, C) float32 in the order of the validation part; where known;
                        of an ensemble or a soup also crossed (n, C): each image by members chosen without it
    images.npy          digests of the images that the model was made with, by part: see `KnownImages`; where known

Tensors and JSON only, no code. The folder appears whole or not at all, and is checked when read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.bundle.manifest import (
    FORMAT,
    Manifest,
    Validation,
    read_validation,
)
from hpo.bundle.stored_metrics import check_metrics
from hpo.data import KnownImages
from hpo.errors import BundleError
from hpo.evaluation.metrics import Logits
from hpo.files import exclusive_lock, write_file, write_folder

if TYPE_CHECKING:
    pass


MODEL, CONFIG, METRICS = "model.safetensors", "config.json", "metrics.json"

CLASSES, VALIDATION, IMAGES = "classes.json", "validation.npz", "images.npy"

FILES = frozenset({MODEL, CONFIG, METRICS, CLASSES, VALIDATION, IMAGES})
"""All that a bundle may hold."""

_HEARERS: ContextVar[tuple[tuple[Path, Callable[[], None]], ...]] = ContextVar("hearers", default=())


@dataclass(frozen=True)
class Extras:
    """What only some bundles hold, as in `Bundle`."""

    crossed: Logits | None = None
    known: KnownImages | None = None


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and checked."""

    path: Path
    manifest: Manifest
    metrics: Mapping[str, Any]
    """What metrics.json held when it was read."""
    model: bytes
    """safetensors."""
    validation: Validation | None = None
    """Predictions on the validation part, before calibration; of a retrained bundle those of the trial it comes from,
    as its own model has trained on these images. None where they are not known."""
    crossed: Logits | None = None
    """(n, C) float32, of ensembles and soups: the same images, each by members that were chosen without it."""
    known: KnownImages | None = None
    """The images that the model was made with; None in bundles of earlier versions of hpo."""

    @property
    def model_digest(self) -> str:
        """SHA-256 of the weights: what a record of a look at a test part calls the model."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def model_file(self) -> Path:
        """Where the weights lie."""
        return self.path / MODEL


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
    if names - FILES or not _is_manifest(out / CONFIG):
        raise BundleError(f"{out} exists and is not a bundle alone; name a folder that is not there yet")
    if not force:
        raise BundleError(f"{out} is a bundle already; give --force to replace it, or name another folder")


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

    A bundle that is replaced leaves the new one its records of looks at test parts.
    """
    check_out(out, force=force)
    extras = extras or Extras()
    if (out / METRICS).is_file():
        metrics = with_openings_of(metrics, (out / METRICS).read_bytes())
    names = {str(index): name for index, name in enumerate(manifest.classes)}
    files = {MODEL: model, CLASSES: _to_json(names).encode()}
    if validation is not None:
        files[VALIDATION] = validation.to_bytes(extras.crossed)
    if extras.known is not None:
        files[IMAGES] = extras.known.to_bytes()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    config = {"bundle_format": FORMAT, **manifest.to_dict(), "sha256": digests}
    write_folder(out, {**files, CONFIG: _to_json(config).encode(), METRICS: _to_json(metrics).encode()})


def read_bundle(path: str | Path) -> Bundle:
    """Read and check the bundle at `path`; every fault raises BundleError with one line."""
    path = Path(path)
    if not path.is_dir():
        raise BundleError(f"{path}: no such folder; `hpo export-best` and `hpo retrain` write bundles")
    values = _read_json(path / CONFIG)
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
    validation, crossed = read_validation(stored, source=path / VALIDATION) if stored is not None else (None, None)
    _check_classes(manifest, files, validation, path)
    known = _known(files[IMAGES], path / IMAGES) if IMAGES in files else None
    metrics = _read_json(path / METRICS)
    check_metrics(metrics, str(path / METRICS))
    return Bundle(path, manifest, metrics, files[MODEL], validation, crossed, known)


def _check_classes(manifest: Manifest, files: Mapping[str, bytes], validation: Validation | None, path: Path) -> None:
    """BundleError where classes.json or the predictions are of other classes than the manifest."""
    count = len(manifest.classes)
    if CLASSES in files:
        names = _parsed(files[CLASSES], path / CLASSES)
        if names != {str(index): name for index, name in enumerate(manifest.classes)}:
            raise BundleError(f"{path / CLASSES} has other classes than {CONFIG}; copy or export the bundle again")
    if validation is not None and not validation.fits(count):
        raise BundleError(
            f"{path / VALIDATION} holds no finite predictions of {count} classes; export the bundle again"
        )


def _known(content: bytes, source: Path) -> KnownImages:
    try:
        return KnownImages.from_bytes(content)
    except (ValueError, EOFError) as error:
        raise BundleError(f"{source} cannot be read ({error}); export the bundle again") from None


def files_of(config: bytes) -> tuple[str, ...]:
    """The files whose digests a config.json holds: what makes the bundle whole beside it and metrics.json."""
    try:
        digests = json.loads(config)["sha256"]
    except (ValueError, KeyError, TypeError):
        return (MODEL,)
    return tuple(sorted(FILES.intersection(digests) | {MODEL})) if isinstance(digests, dict) else (MODEL,)


def _read_files(path: Path, digests: Any) -> dict[str, bytes]:
    """The files that `digests` names, the weights among them, each as it was written."""
    known = digests if isinstance(digests, dict) else {}
    files = {name: _read(path / name) for name in sorted(FILES.intersection(known) | {MODEL})}
    for name, content in files.items():
        if known.get(name) != hashlib.sha256(content).hexdigest():
            raise BundleError(f"{path / name}: its checksum is not the one in {CONFIG}; copy or export it again")
    return files


def new_opening(command: str, fingerprint: str, n: int, *, test: str = "", model: str = "") -> dict[str, Any]:
    """The record of one look at a test part of n images, by `command`, now; its result is to come.

    `fingerprint` is of the data, `test` the digest of the test part, `model` that of the weights.
    """
    date = datetime.now(UTC).isoformat(timespec="microseconds")
    return {
        "date": date, "command": command, "data": fingerprint, "test": test, "model": model, "n": n, "accuracy": None
    }  # fmt: skip


def openings_of(path: Path) -> list[dict[str, Any]]:
    """Every look at a test part that the bundle at `path` has on record."""
    return list(_read_json(path / METRICS).get("test_openings", []))


def record_opening(path: Path, opening: Mapping[str, Any]) -> int:
    """Append `opening` to the bundle's metrics.json; returns how often that test part has been opened.

    Called before the look: one that fails half-way, or on a bundle that cannot be written, is not a free one. Where the
    folder is a copy, the record is in the place it comes from too when this returns: see `heard_openings`.
    """
    with exclusive_lock(path):
        metrics = _read_json(path / METRICS)
        openings = [*metrics.get("test_openings", []), dict(opening)]
        write_file(path / METRICS, _to_json({**metrics, "test_openings": openings}))
    for folder, hear in _HEARERS.get():
        if folder == path:
            hear()
    return sum(one.get("data") == opening["data"] for one in _read_json(path / METRICS)["test_openings"])


def record_result(path: Path, opening: Mapping[str, Any], accuracy: float, **metrics: Any) -> None:
    """Write what a recorded look gave into its record, and `metrics` beside the records."""
    with exclusive_lock(path):
        before = _read_json(path / METRICS)
        openings = [{**one, "accuracy": accuracy} if one == opening else one for one in before.get("test_openings", [])]
        write_file(path / METRICS, _to_json({**before, **metrics, "test_openings": openings}))


def merge_metrics(path: Path, other: bytes) -> None:
    """Take over `other`, the metrics.json of another copy of the bundle; keep the looks that only this one knows."""
    theirs = _parsed(other, path / METRICS)
    check_metrics(theirs, str(path / METRICS))
    with exclusive_lock(path):
        ours = _read_json(path / METRICS)
        openings = merged_openings(theirs.get("test_openings", []), ours.get("test_openings", []))
        write_file(path / METRICS, _to_json({**ours, **theirs, "test_openings": openings}))


def with_openings_of(metrics: Mapping[str, Any], replaced: bytes) -> dict[str, Any]:
    """`metrics` with the looks that `replaced`, the metrics.json of a bundle that is replaced, knows too."""
    try:
        known = json.loads(replaced).get("test_openings", [])
    except (ValueError, AttributeError):  # damaged: what it knew is in the ledger of HOME still
        known = []
    return (
        {**metrics, "test_openings": merged_openings(known, metrics.get("test_openings", []))} if known else {**metrics}
    )


def merged_openings(*lists: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every look once, in the order of their dates; one that several lists know keeps its result, whichever has it."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for one in (opening for openings in lists for opening in openings):
        key = tuple(one.get(name) for name in ("date", "command", "data", "model", "test"))
        if key not in found or one.get("accuracy") is not None:
            found[key] = one
    return [dict(one) for one in sorted(found.values(), key=lambda one: str(one.get("date")))]


@contextmanager
def heard_openings(path: Path, hear: Callable[[], None]) -> Iterator[None]:
    """Within the block `hear` is called as soon as a look is on record in the bundle at `path`, before it happens."""
    token = _HEARERS.set((*_HEARERS.get(), (path, hear)))
    try:
        yield
    finally:
        _HEARERS.reset(token)


def _is_manifest(path: Path) -> bool:
    try:
        return "bundle_format" in _read_json(path)
    except BundleError:
        return False


def _to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    return _parsed(_read(path), path)


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    try:
        # Python writes and reads NaN and Infinity, which JSON lacks: no number then, as for every other reader.
        values = json.loads(content, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not valid JSON ({error}); copy or export the bundle again") from None
    if not isinstance(values, dict):
        raise BundleError(f"{path} must hold a JSON object; copy or export the bundle again")
    return values


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise BundleError(f"{path.parent} is not a bundle: it has no {path.name}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); copy or export the bundle again") from None
