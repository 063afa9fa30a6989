"""Reading a file of weights: tensors by name, and what timm's hub layout says about them. No code is ever run."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hpo.errors import ModelError

NESTS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
"""Keys under which training scripts put the weights."""


@dataclass(frozen=True)
class Description:
    """What the `.json` beside a weights file says, in timm's hub layout."""

    architecture: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or tensors-only .pth file; raises ModelError for anything else."""
    if not path.is_file():
        raise ModelError(f"weights {path}: no such file; give a .safetensors or a tensors-only .pth file")
    return _safetensors(path) if path.suffix == ".safetensors" else _tensors_only(path)


def weights_digest(path: str | Path) -> str:
    """sha256 of the file, in hex."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"weights {path}: cannot be read ({error.strerror}); give another file") from error


def architecture_of(path: str | Path) -> str | None:
    """The timm name in the `.json` beside the weights; None where there is no such file or it names none."""
    return describe(Path(path)).architecture


def describe(path: Path) -> Description:
    """The `.json` of the same name; an empty Description where there is none."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return Description()
    try:
        values = json.loads(beside.read_text(encoding="utf-8"))
        settings = values.get("pretrained_cfg", values)
        return Description(values.get("architecture"), _triple(settings.get("mean")), _triple(settings.get("std")))
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise ModelError(f"{beside}: not a description in timm's hub layout ({error}); mend it or remove it") from error


def _triple(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) != 3:
        raise ValueError(f"mean or std is {values}, but must have three numbers")
    return tuple(float(value) for value in values)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"weights {path}: not a whole safetensors file ({error}); copy it again") from error


def _tensors_only(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise ModelError(
                f"weights {path}: the file holds code, not tensors only, and is refused; {_SAVE}"
            ) from error
        raise ModelError(f"weights {path}: not a whole .pth file; copy it again") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"weights {path}: not a whole .pth file; copy it again") from error
    return _unnested(content, path)


_SAVE = "save the state_dict as safetensors"


def _unnested(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of tensors, however deep a training script has put it."""
    while isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        content = next((content[nest] for nest in NESTS if nest in content), None)
    raise ModelError(f"weights {path}: no tensors by name in it; {_SAVE}")
