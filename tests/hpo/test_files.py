"""Folders and files appear whole or not at all."""

import os
import stat

import pytest

from hpo import files as folder
from hpo.files import open_whole_file, write_file, write_folder


def contents(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def test_a_folder_holds_exactly_what_was_written(tmp_path):
    write_folder(tmp_path / "new" / "deep", {"a": b"1", "b": b"2"})
    assert contents(tmp_path / "new" / "deep") == {"a": b"1", "b": b"2"}
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["deep"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    write_folder(tmp_path / "out", {"a": b"old", "gone": b"x"})
    write_folder(tmp_path / "out", {"a": b"new"})
    assert contents(tmp_path / "out") == {"a": b"new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    write_folder(tmp_path / "real", {"a": b"old"})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "link", {"a": b"new"})
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"a": b"new"}


def test_a_full_disk_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch):
    write_folder(tmp_path / "out", {"a": b"old"})

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folder, "_write_through", full)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "out", {"a": b"new"})
    assert contents(tmp_path / "out") == {"a": b"old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_folder(tmp_path / "out", {"a": b"1"})
        write_file(tmp_path / "file", "1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_keeps_its_old_content_after_an_exception(tmp_path):
    write_file(tmp_path / "file", "old")

    def interrupted():
        with open_whole_file(tmp_path / "file") as file:
            file.write("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert contents(tmp_path) == {"file": b"old"}


def test_a_file_is_written_byte_for_byte(tmp_path):
    write_file(tmp_path / "file", "é\r\nü\n")
    assert (tmp_path / "file").read_bytes() == "é\r\nü\n".encode()
