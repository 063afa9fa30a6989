"""Reading of weights files: every tensor by name, without running code of the file.

The first bytes decide the kind of a file, not its suffix. Nested mappings of a training script are flattened: the
tensor `conv1.weight` under the key `state_dict` gets the name `state_dict.conv1.weight`.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hpo.errors import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Suffixes of weights files, used only to find the file in a folder."""

USUAL = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights file in a folder from a model hub, or in a bundle."""

MAX_BYTES = 64 << 30
"""Size of the largest file that is read: four copies of timm's largest network (weights, average, optimiser)."""

MAX_PICKLE = 64 << 20
"""Size of the largest pickle in a .pth file: it describes the tensors, whose values lie beside it."""

DEPTH = 8
"""Largest number of levels of nested mappings."""

_HEAD = 1024

_SAVE = "save the state_dict as safetensors"

_POINTERS = (b"version https://git-lfs.github.com/spec/", b"/annex/objects/", b".git/annex/objects/")

_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def weights_file(path: str | Path) -> Path:
    """Return the file itself, or the one weights file in a folder; raise ModelError if there is none, or several."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelError(f"weights {path}: no such file; give a .safetensors or a tensors-only .pth file")
    found = _weights_in(path)
    if not found:
        raise ModelError(f"weights {path}: a folder without a .safetensors or .pth file; give the file")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:4])
        raise ModelError(f"weights {path}: a folder with {len(found)} files of weights ({names}); give one of them")
    return found[0]


def _weights_in(folder: Path) -> list[Path]:
    """Return the file with a usual name if there is one, else all weights files by their suffixes."""
    usual = [folder / name for name in USUAL if (folder / name).is_file()]
    return usual[:1] or sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)


def weights_digest(path: str | Path) -> str:
    """Return the sha256, in hex, of the file or of the one weights file in the folder."""
    try:
        with (weights_file(path) if Path(path).is_dir() else Path(path)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"weights {path}: cannot be read ({error.strerror}); give another file") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or tensors-only .pth file by their flattened names, in the file's order.

    Raises ModelError for any other file; the message names its kind if the first bytes show it.
    """
    try:
        head, size = _head(path), path.stat().st_size
        _refuse_by_head(path, head, size)
        if _is_pickled(head):
            return dict(_flattened(_pickled(path, head, size), path))
        return load_file(path)
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"weights {path}: not a whole safetensors or .pth file ({reason}); copy it again") from error
    except OSError as error:
        raise ModelError(f"weights {path}: cannot be read ({error.strerror or error}); give another file") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _refuse_by_head(path: Path, head: bytes, size: int) -> None:
    """Raise ModelError if the first bytes or the size show that the file holds no weights."""
    if not head:
        raise ModelError(f"weights {path}: an empty file, not a whole file of weights; copy it again")
    if size > MAX_BYTES:
        raise ModelError(f"weights {path}: {size >> 30} GiB, but {MAX_BYTES >> 30} GiB at most are read; {_SAVE}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_POINTERS):
        raise ModelError(
            f"weights {path}: a Git LFS (or annex) pointer, not the weights themselves; fetch them with `git lfs pull`"
        )
    if text.startswith(_PAGES):
        raise ModelError(f"weights {path}: a web page or XML, not weights; download the file itself")
    if head.startswith(b"\x89HDF"):
        raise ModelError(f"weights {path}: an HDF5 file (as Keras writes), not PyTorch weights; {_SAVE}")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        raise ModelError(f"weights {path}: a compressed archive; unpack it and give the file in it")


def _is_pickled(head: bytes) -> bool:
    """Return whether `torch.save` wrote the file: a zip archive, or in the older format a bare pickle."""
    # A safetensors file may begin with the same byte as a pickle, but has the `{` of its header after eight bytes.
    return head.startswith(b"PK\x03\x04") or (head.startswith(b"\x80") and head[8:9] != b"{")


def _pickled(path: Path, head: bytes, size: int) -> Any:
    """Return the content that `torch.save` wrote, read without running code."""
    if head.startswith(b"PK"):
        _check_archive(path, size)
    try:
        # timm's training checkpoints hold an argparse.Namespace, a plain mapping of names.
        # An open file, not a path: for a path torch looks at the suffix.
        with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported class" in str(error):
            raise ModelError(
                f"weights {path}: the file holds code, not tensors only, and is refused; {_SAVE}"
            ) from error
        raise ModelError(f"weights {path}: not a whole .pth file; copy it again") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, OSError) as error:
        raise ModelError(f"weights {path}: not a whole .pth file; copy it again") from error


def _check_archive(path: Path, size: int) -> None:
    """Raise ModelError unless `torch.save` can have written the zip archive: it stores values uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:  # the last: a later version of the format
        raise ModelError(f"weights {path}: not a whole .pth file; copy it again") from error
    names = [member.filename for member in members]
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise ModelError(f"weights {path}: a TorchScript archive, which holds code, and is refused; {_SAVE}")
    _check_members(path, members, size)


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    """Raise ModelError unless the archive holds uncompressed values and a pickle that describes them."""
    pickles = [member for member in members if member.filename.endswith("data.pkl")]
    if not pickles:
        kind = "an .npz file" if any(member.filename.endswith(".npy") for member in members) else "a zip archive"
        raise ModelError(f"weights {path}: {kind} without PyTorch weights; {_SAVE}")
    compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > size:
        raise ModelError(f"weights {path}: a zip archive with compressed parts, as torch.save writes none; {_SAVE}")
    if any(member.file_size > MAX_PICKLE for member in pickles):
        raise ModelError(f"weights {path}: more than {MAX_PICKLE >> 20} MiB beside the tensors; {_SAVE}")


def _flattened(content: Any, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of all tensors in nested mappings, outermost first; raise ModelError if there is none."""
    level, depth, found = [("", content)], 0, False
    while level and depth < DEPTH:
        deeper: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, Tensor):
                found = True
                yield name, value
            elif isinstance(value, Mapping):
                deeper += [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
        level, depth = deeper, depth + 1
    if not found:
        raise ModelError(f"weights {path}: no tensors by name in it; {_SAVE}")
