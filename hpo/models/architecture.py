"""Descriptions of weights files: architecture, and mean and std of the input, from JSON files beside the weights.

For NAME.safetensors NAME.json is read if it exists; else config.json and preprocessor_config.json of the same folder.
The layouts are timm's hub layout (`architecture`, `pretrained_cfg`), image processors of transformers (`image_mean`,
`image_std`), OpenCLIP's `preprocess_cfg`, and the config.json of a bundle (`preprocessing`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import ModelError
from hpo.models.weights_file import weights_file

SHARED = ("config.json", "preprocessor_config.json")
"""Names of descriptions that belong to a folder, as on a model hub."""

MAX_BYTES = 16 << 20
"""Size of the largest description that is read."""

_SECTIONS = ("pretrained_cfg", "preprocessing", "preprocess_cfg")

_MEANS, _STDS = ("mean", "image_mean"), ("std", "image_std")

_SCALE = 1 / 255

Values = tuple[float, ...]


@dataclass(frozen=True)
class Description:
    """Facts about a file of weights."""

    architecture: str | None = None
    """timm's name of the backbone."""
    mean: Values | None = None
    """Mean of images scaled to [0, 1]: three numbers, or one for weights that take grey images."""
    std: Values | None = None
    source: Path | None = None
    """The file that mean and std come from."""

    def channels(self, *, grey: bool) -> tuple[Values, Values] | None:
        """Return mean and std of three channels; None if they are not known.

        Raises ModelError if there is one number of each, unless the weights take `grey` images.
        """
        if self.mean is None or self.std is None:
            return None
        if not grey and len(self.mean) + len(self.std) < 6:
            raise _unfit(self.source, f"mean is {list(self.mean)}, std {list(self.std)}, but must have three numbers")
        return (self.mean * 3)[:3], (self.std * 3)[:3]


def architecture_of(path: str | Path) -> str | None:
    """Return the timm name in the description of the weights; None without a description or a name in it."""
    return describe(Path(path)).architecture if Path(path).exists() else None


def describe(path: Path) -> Description:
    """Read the files beside `path`; the description is empty if there are none.

    Raises ModelError for files that cannot be read, hold impossible values, or contradict each other.
    """
    file = weights_file(path)
    own = file.with_suffix(".json")
    if own.is_file():
        return _read(own)
    found = [_read(file.with_name(name)) for name in SHARED if file.with_name(name).is_file()]
    return _joined(found) if found else Description()


def _joined(found: list[Description]) -> Description:
    """Merge several descriptions; raise ModelError if two of them contradict each other."""
    known = [description for description in found if description.mean is not None]
    for other in known[1:]:
        if (other.mean, other.std) != (known[0].mean, known[0].std):
            raise ModelError(
                f"{known[0].source} gives mean {_shown(known[0].mean)} and std {_shown(known[0].std)}, but "
                f"{other.source} {_shown(other.mean)} and {_shown(other.std)}; mend one of them"
            )
    architecture = next((description.architecture for description in found if description.architecture), None)
    chosen = known[0] if known else Description()
    return Description(architecture, chosen.mean, chosen.std, chosen.source)


def _shown(values: Values | None) -> str:
    return ", ".join(f"{value:g}" for value in values or ())


def _read(file: Path) -> Description:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
        values = json.loads(file.read_text(encoding="utf-8-sig"))
        if not isinstance(values, Mapping):
            raise TypeError(f"it is a {type(values).__name__}, but must be a mapping")
        mean, std = _normalisation(values)
        return Description(_architecture(values), mean, std, file if mean else None)
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise _unfit(file, error) from error


def _unfit(file: Path | None, reason: object) -> ModelError:
    return ModelError(f"{file}: not a description in timm's hub layout ({reason}); mend it or remove it")


def _architecture(values: Mapping[str, Any]) -> str | None:
    """Return the backbone's timm name; for a bundle, from its configuration."""
    if "bundle_format" in values:
        config = values.get("config")
        named = config.get("backbone") if isinstance(config, Mapping) else None
    else:
        named = values.get("architecture")
    if named is not None and not isinstance(named, str):
        raise TypeError(f"architecture is {named!r}, but must be the name of a timm model")
    return named


def _normalisation(values: Mapping[str, Any]) -> tuple[Values | None, Values | None]:
    """Return mean and std, both or none; raise ValueError if they cannot be those of images in [0, 1]."""
    sections = [values, *(values[name] for name in _SECTIONS if isinstance(values.get(name), Mapping))]
    means = _distinct(sections, _MEANS, "mean", lowest=0.0)
    stds = _distinct(sections, _STDS, "std", lowest=math.ulp(0.0))
    if (means is None) != (stds is None):
        raise ValueError(f"it gives {'std' if means is None else 'mean'} alone, but both belong together")
    if values.get("do_normalize") is False:
        return (0.0,) * 3, (1.0,) * 3
    if means is not None:
        _check_scale(values)
    return means, stds


def _distinct(sections: list[Mapping[str, Any]], names: tuple[str, ...], key: str, *, lowest: float) -> Values | None:
    """Return the one value of `key` in the sections, under any of its names; raise ValueError if there are two."""
    given = [section[name] for section in sections for name in names if section.get(name) is not None]
    found = [_checked(values, key, lowest) for values in given]
    if len(set(found)) > 1:
        raise ValueError(f"it gives two values of {key}: {_shown(found[0])} and {_shown(found[1])}")
    return found[0] if found else None


def _checked(values: Any, key: str, lowest: float) -> Values:
    """Return `values` as one or three floats from `lowest` to 1; raise ValueError for anything else."""
    listed = values if isinstance(values, list) else [values]
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in listed)
    if not plain or len(listed) not in (1, 3):
        raise ValueError(f"{key} is {values!r}, but must be three numbers")
    numbers = tuple(float(value) for value in listed)
    if not all(lowest <= number <= 1 for number in numbers):
        rule = "from 0 to 1" if lowest == 0 else "above 0 and at most 1"
        raise ValueError(f"{key} is {values!r}, but must be {rule}, of images scaled to [0, 1]")
    return numbers


def _check_scale(values: Mapping[str, Any]) -> None:
    """Raise ValueError if an image processor scales pixels in another way than to [0, 1]."""
    factor = values.get("rescale_factor", _SCALE)
    if values.get("do_rescale") is False or values.get("rescale_offset") or abs(float(factor) / _SCALE - 1) > 1e-3:
        raise ValueError("its images are not scaled to [0, 1] before mean and std, as they are here")
