"""Files and folders appear whole or not at all, their permissions follow the umask, and only hpo.files writes so."""

import ast
import os
import stat
import threading
from pathlib import Path

import pytest

import hpo
from hpo import files
from hpo.files import (
    append_line,
    atomic_file,
    atomic_folder,
    atomic_text_file,
    exclusive_lock,
    write_file,
    write_folder,
    write_new_file,
)

SOURCES = Path(hpo.__file__).parent
EXCEPTIONS = {
    "bundle/remote.py": {"tempfile"},  # a bundle on its way to S3; the folder is removed after the upload
    "data/synthetic.py": {"tempfile", "rename"},  # fills a given empty folder, which may be a mount: it stays in place
    "report/build.py": {"tempfile"},  # what a report needs while it is made; the folder is removed after it
}


def contents(path):
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


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

    def full(path, chunks):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_new_file", full)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "out", {"a": b"new"})
    assert contents(tmp_path / "out") == {"a": b"old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o002, 0o664, 0o775), (0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_the_umask_alone_decides_who_may_read(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        write_folder(tmp_path / "out", {"a": b"1"})
        write_file(tmp_path / "file", "1")
        with atomic_text_file(tmp_path / "text") as text:
            text.write("1")
        append_line(tmp_path / "lines", "1")
    finally:
        os.umask(before)
    assert mode(tmp_path / "out") == folder
    written = ("out/a", "file", "text", "lines")
    assert {name: mode(tmp_path / name) for name in written} == dict.fromkeys(written, file)


@pytest.mark.parametrize("opened", [atomic_file, atomic_text_file])
def test_a_file_keeps_its_old_content_after_an_exception(tmp_path, opened):
    write_file(tmp_path / "file", "old")

    def interrupted():
        with opened(tmp_path / "file") as file:
            file.write("half" if opened is atomic_text_file else b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert contents(tmp_path) == {"file": b"old"}


def test_a_folder_keeps_its_old_content_after_an_exception(tmp_path):
    write_folder(tmp_path / "out", {"a": b"old"})

    def interrupted():
        with atomic_folder(tmp_path / "out") as folder:
            write_new_file(folder / "a", [b"half"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert contents(tmp_path / "out") == {"a": b"old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("content", ["é\r\nü\n", "é\r\nü\n".encode()])
def test_a_file_is_written_byte_for_byte(tmp_path, content):
    write_file(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == "é\r\nü\n".encode()


def test_text_is_written_byte_for_byte_and_what_utf8_lacks_as_the_caller_says(tmp_path):
    with atomic_text_file(tmp_path / "file", "backslashreplace") as file:
        file.write("é\r\n\udcff\n")
    assert (tmp_path / "file").read_bytes() == "é\r\n\\udcff\n".encode()


def test_a_new_file_never_replaces_another(tmp_path):
    write_new_file(tmp_path / "file", [b"ab", memoryview(b"c")])
    with pytest.raises(FileExistsError):
        write_new_file(tmp_path / "file", [b"d"])
    assert contents(tmp_path) == {"file": b"abc"}


@pytest.mark.parametrize("name", ["folder", "lock"])
def test_a_lock_is_held_by_one_at_a_time(tmp_path, name):
    (tmp_path / "folder").mkdir()
    order = []

    def second():
        with exclusive_lock(tmp_path / name):
            order.append("second")

    waiting = threading.Thread(target=second)
    with exclusive_lock(tmp_path / name):
        waiting.start()
        waiting.join(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_only_this_file_writes_atomically_locks_and_syncs():
    found = {str(path.relative_to(SOURCES)): own_ways(path) for path in SOURCES.rglob("*.py")}
    assert {path: ways for path, ways in found.items() if ways} == {
        **EXCEPTIONS,
        "files.py": {"fcntl", "fsync", "replace", "rename"},
    }


def own_ways(path):
    """Return which of tempfile, fcntl, fsync and renaming a source file uses."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used.update(alias.name for alias in node.names if alias.name in ("tempfile", "fcntl"))
        elif isinstance(node, ast.ImportFrom) and node.module in ("tempfile", "fcntl"):
            used.add(node.module)
        elif isinstance(node, ast.Attribute) and node.attr in ("fsync", "fdatasync", "rename"):
            used.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
            # Strings are replaced with two arguments, dates and values with keywords, paths with one.
            of_os = isinstance(node.func.value, ast.Name) and node.func.value.id == "os"
            if of_os or (len(node.args) == 1 and not node.keywords):
                used.add("replace")
    return used
