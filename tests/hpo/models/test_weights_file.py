from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hpo.errors import ModelError
from hpo.models import weights_digest, weights_file
from hpo.models.weights_file import read_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def pth(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def recompressed(content: bytes, method: int) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped({name: archive.read(name) for name in archive.namelist()}, method)


def of_later_version(content: bytes) -> bytes:
    """Return a zip archive with the mark that its last member needs a version of the format that there is not yet."""
    place = content.rindex(b"PK\x01\x02") + 6  # APPNOTE.TXT 4.3.12: magic, version made by, version needed
    return content[:place] + b"\xff\x00" + content[place + 2 :]


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in TENSORS.items()})
    return buffer.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13750696\n"
PAGE = b"<!DOCTYPE html>\n<html><body>Not found</body></html>"

WRONG = {
    "empty": (b"", "an empty file"),
    "lfs": (POINTER, "a Git LFS .* pointer, not the weights themselves; fetch them"),
    "annex": (b"/annex/objects/MD5E-s1--ab.pth\n", "a Git LFS .* pointer"),
    "html": (PAGE, "a web page or XML, not weights"),
    "html after blanks": (b"\xef\xbb\xbf\n  <html lang='en'>", "a web page or XML, not weights"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page or XML, not weights"),
    "json": (b'{"error": "gated repository"}', "not a whole"),
    "text": (b"hello\n" * 40, "not a whole"),
    "zeros": (bytes(4096), "not a whole"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(64), "a compressed archive; unpack it"),
    "npz": (npz(), "an .npz file without PyTorch weights"),
    "zip": (zipped({"readme.txt": b"x"}), "a zip archive without PyTorch weights"),
    "later zip": (of_later_version(pth(TENSORS)), "not a whole"),
    "deflated": (recompressed(pth(TENSORS), zipfile.ZIP_DEFLATED), "with compressed parts"),
    "lzma": (recompressed(pth(TENSORS), zipfile.ZIP_LZMA), "with compressed parts"),
    "script": (scripted(), "a TorchScript archive, which holds code"),
    "pickle": (b"\x80\x04\x95", "not a whole"),
    "number": (pth(3), "no tensors by name in it"),
    "list": (pth([torch.ones(1)]), "no tensors by name in it"),
    "header": (b"\xff" * 8 + b"{", "not a whole"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("kind", WRONG)
def test_files_of_other_kinds_are_named_in_the_error(tmp_path: Path, kind: str, suffix: str) -> None:
    content, words = WRONG[kind]
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert "holds code, not" not in str(caught.value)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w"])
@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_the_content_decides_not_the_suffix(tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / name
    if form == "safetensors":
        save_file(TENSORS, path)
    else:
        path.write_bytes(pth(TENSORS, _use_new_zipfile_serialization=form == "zip"))
    found = read_tensors(path)
    assert found.keys() == TENSORS.keys()
    assert all(value.equal(TENSORS[key]) for key, value in found.items())


def test_nested_tensors_have_the_names_of_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pth({"epoch": torch.tensor(3), "state": {"net": TENSORS, 0: torch.ones(1)}, "note": "x"}))
    assert list(read_tensors(path)) == ["epoch", "state.0", "state.net.a.weight", "state.net.a.bias"]


def test_a_folder_with_one_weights_file_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a folder without a \.safetensors or \.pth file"):
        weights_file(tmp_path)
    save_file(TENSORS, tmp_path / "one.safetensors")
    (tmp_path / "one.json").write_text("{}")
    assert weights_file(tmp_path) == tmp_path / "one.safetensors"
    assert weights_digest(tmp_path) == weights_digest(tmp_path / "one.safetensors")
    save_file(TENSORS, tmp_path / "two.safetensors")
    with pytest.raises(ModelError, match=r"2 files of weights \(one.safetensors, two.safetensors\); give one"):
        weights_file(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert weights_file(tmp_path) == tmp_path / "model.safetensors"
