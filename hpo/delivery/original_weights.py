"""Find the file of pretrained weights that a trial started from: a bundle has its name and digest, but not its path.

The paths of such files on this machine are stored in its cache, in `weights/<sha256>`; they never leave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpo.bundle.manifest import Manifest, Weights
from hpo.errors import BundleError, ModelError
from hpo.files import write_file
from hpo.models.weights_file import weights_digest, weights_file


def remember_weights(cache: Path, path: Path | str, digest: str) -> None:
    """Store the path of the weights file with the sha256 `digest`; do nothing where there is no such file."""
    if not Path(path).is_absolute() or not Path(path).exists():
        return
    (cache / "weights").mkdir(parents=True, exist_ok=True)
    write_file(cache / "weights" / digest, str(path))


def with_weights(manifest: Manifest, path: Path | None, *, other: bool = False, cache: Path | None = None) -> Manifest:
    """Return the manifest with the path of the weights file here: `path`, or the one that `original_weights` finds.

    Raises BundleError unless the file is there and, without `other`, is the very file that the trial started from.
    """
    config = manifest.config
    if path is None and not (config.pretrained and config.weights):
        return manifest
    found = path or original_weights(manifest, cache)
    if not found.exists():
        raise BundleError(f"{found}, the weights that the trial started from, is not there; name it with --weights")
    digest = weights_digest(found)
    if not other and digest != manifest.weights.digest:
        raise BundleError(
            f"{found} is not the weights file that the trial started from ({manifest.weights.file or 'none'}); "
            "give that one, or --other-weights to take this one"
        )
    if cache is not None:
        remember_weights(cache, found.resolve(), digest)
    changed = config.replace(weights=str(found.resolve()), pretrained=True)
    return manifest.model_copy(
        update={"config": changed, "weights": Weights(file=weights_file(found).name, digest=digest)}
    )


def original_weights(manifest: Manifest, cache: Path | None) -> Path:
    """Return the path of the very file that the bundle's trial started from; BundleError where it is not found.

    It is looked for at the path in the bundle (which has one before format 3), at the path in `cache`, and under its
    name in the current folder.
    """
    digest = manifest.weights.digest
    places = list(_places(manifest, cache))
    found = next((place for place in places if place.exists()), None)
    for place in places:
        if place.exists() and _digest(place) == digest:
            return place
    name = manifest.config.weights or manifest.weights.file
    if found is None:
        raise BundleError(
            f"{name}, the weights that the trial started from (sha256 {(digest or 'unknown')[:12]}), is not there; "
            "name it with --weights"
        )
    raise BundleError(
        f"{found} is not the weights file that the trial started from ({manifest.weights.file or 'none'}, sha256 "
        f"{(digest or 'unknown')[:12]}); name that one with --weights"
    )


def _places(manifest: Manifest, cache: Path | None) -> Iterator[Path]:
    named = Path(str(manifest.config.weights))
    if named.is_absolute():
        yield named
    remembered = cache / "weights" / str(manifest.weights.digest) if cache is not None else None
    if remembered is not None and remembered.is_file():
        yield Path(remembered.read_text(encoding="utf-8"))
    yield Path.cwd() / named.name


def _digest(path: Path) -> str | None:
    try:
        return weights_digest(path)
    except (ModelError, OSError):
        return None
