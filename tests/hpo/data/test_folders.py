"""Folders of class folders, with and without train/ val/ test/."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from hpo.data import SplitOptions, open_dataset
from hpo.data.folders import FolderSource
from hpo.data.layout import arrange
from hpo.data.opening import open_source
from hpo.errors import DataError


def listed(folder):
    return FolderSource(folder).listing()


def test_class_folders_give_sorted_classes_and_no_split(write_classes):
    listing = listed(write_classes({"b": 1, "a": 2}))
    assert listing.classes == ("a", "b")
    assert [(r.name, r.label, r.given) for r in listing.records] == [
        ("a/000.png", 0, None),
        ("a/001.png", 0, None),
        ("b/000.png", 1, None),
    ]
    assert listing.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("folder", "part"),
    [("train", "train"), ("val", "val"), ("valid", "val"), ("validation", "val"), ("test", "test"), ("Train", "train")],
)
def test_names_of_parts(write_classes, folder, part):
    listing = listed(write_classes({f"{folder}/a": 1, f"{folder}/b": 1}))
    assert listing.classes == ("a", "b")
    assert {record.given for record in listing.records} == {part}


def test_reads_give_the_bytes_in_the_order_of_the_listing(write_classes):
    folder = write_classes({"a": 2, "b": 2})
    source = FolderSource(folder)
    with source.reads() as reads:
        read = [read() for read in reads]
    assert read == [(folder / record.name).read_bytes() for record in source.listing().records]


def test_hidden_files_other_files_and_cases(write_classes):
    folder = write_classes({"a": 1, "b": 1})
    (folder / "a" / "UPPER.JPG").touch()
    for ignored in (".hidden.png", "Thumbs.db", "notes.txt"):
        (folder / "a" / ignored).touch()
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").touch()
    assert [r.name for r in listed(folder).records] == ["a/000.png", "a/UPPER.JPG", "b/000.png"]


def test_images_may_lie_deeper_than_their_class(write_classes):
    assert listed(write_classes({"a/2020/may": 1, "b": 1})).classes == ("a", "b")


def test_links_are_followed_and_a_circle_of_them_ends(write_classes, tmp_path):
    folder = write_classes({"a": 1, "b": 1})
    elsewhere = write_classes({"c": 1}, under="elsewhere", first_seed=9)
    (folder / "c").symlink_to(elsewhere / "c")
    (folder / "a" / "again").symlink_to(folder)
    (folder / "b" / "nowhere.png").symlink_to(tmp_path / "missing.png")
    names = [r.name for r in listed(folder).records]
    assert names == ["a/000.png", "b/000.png", "b/nowhere.png", "c/000.png"]


def test_a_class_may_be_called_train(write_classes):
    assert listed(write_classes({"train": 1, "car": 1})).classes == ("car", "train")


def test_an_empty_class_folder_is_listed_for_the_check_to_name(write_classes):
    folder = write_classes({"train/a": 1, "train/b": 1})
    (folder / "train" / "c").mkdir()
    (folder / "val").mkdir()
    (folder / "docs").mkdir()
    assert listed(folder).classes == ("a", "b", "c")


def test_the_key_changes_with_the_files(write_classes):
    folder = write_classes({"a": 1, "b": 1})
    key = FolderSource(folder).key()
    assert FolderSource(folder).key() == key
    (folder / "a" / "000.png").touch()
    os.utime(folder / "a" / "000.png", ns=(1, 1))
    assert FolderSource(folder).key() != key


def test_the_key_is_found_without_the_layout(write_classes):
    """Every process computes the key at its start, and arranging a million images takes seconds."""
    folder = write_classes({"a": 1, "b": 1})
    (folder / "loose.png").write_bytes(b"")
    with pytest.raises(DataError, match="lies in no class folder"):
        FolderSource(folder).listing()
    assert FolderSource(folder).key() == FolderSource(folder).key()


def test_no_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no images: put jpg, .* files into one folder per class"):
        listed(tmp_path)


def test_an_image_outside_a_class_folder_is_named(write_classes):
    folder = write_classes({"a": 1, "b": 1})
    (folder / "loose.png").touch()
    with pytest.raises(DataError, match=r"loose\.png in .* lies in no class folder"):
        listed(folder)


def test_an_image_directly_in_train_is_named():
    with pytest.raises(DataError, match=r"train/x\.png in D lies in no class folder"):
        arrange(["train/x.png", "train/a/y.png"], [], "D")


def test_parts_beside_classes_are_refused():
    with pytest.raises(DataError, match="D holds train/ beside cats/, but must hold"):
        arrange(["cats/x.png", "train/cats/y.png"], [], "D")


def test_no_such_path(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist: give the path"):
        open_source(tmp_path / "nowhere")


def test_a_path_that_leads_nowhere_or_is_no_file(tmp_path, public, as_unprivileged):
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(DataError, match=r"self cannot be reached \(Too many levels of symbolic links\): mend the link"):
        open_source(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match=r"pipe\.csv is a pipe, socket or device, but must be a folder or"):
        open_source(tmp_path / "pipe.csv")
    (public / "a" / "data").mkdir()
    (public / "a").chmod(0o600)
    assert "a/data cannot be reached (Permission denied)" in as_unprivileged(lambda: open_source(public / "a" / "data"))


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt is a file, but must be a folder"):
        open_source(tmp_path / "notes.txt")


@pytest.fixture
def as_unprivileged():
    """Return as_unprivileged(function) -> text of the DataError that it raises for a user without rights."""

    def run(function):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                function()
                os.write(writer, b"no error")
            except DataError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as stream:
            text = stream.read()
        os.waitpid(child, 0)
        return text

    return run


@pytest.fixture
def public():
    """Yield a folder that every user can reach, with two classes in it."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a", "b"):
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "1.png").touch()
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o666, 0o600])
def test_a_folder_that_may_not_be_listed_or_entered(public, as_unprivileged, mode):
    (public / "a").chmod(mode)
    message = as_unprivileged(lambda: listed(public))
    (public / "a").chmod(0o755)
    assert message == f"{public / 'a'} cannot be listed (Permission denied): mend its permissions"


def test_pipes_sockets_and_links_to_themselves_are_unreadable_images(write_classes, cache):
    folder = write_classes({"a": 30, "b": 30})
    os.mkfifo(folder / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "b" / "s.png"))
    (folder / "a" / "self.png").symlink_to("self.png")
    (folder / "b" / "self").symlink_to("self")
    (folder / "b" / "folder.png").mkdir()
    dataset = open_dataset(folder, image_size=16, cache=cache, split=SplitOptions(max_unreadable=0.1))
    reasons = {image.name: image.reason for image in dataset.unreadable}
    assert set(reasons) == {"a/pipe.png", "a/self.png", "b/s.png"}
    assert reasons["a/pipe.png"].startswith("not an ordinary file")
    assert "symbolic links" in reasons["a/self.png"]
    assert [(entry.kind, entry.names) for entry in dataset.left_out] == [("without a suffix", ("b/self",))]


def test_key_changes_with_the_kinds_that_are_left_out_not_with_their_content(write_classes):
    folder = write_classes({"a": 1, "b": 1})
    before = FolderSource(folder).key()
    (folder / "a" / "1.heic").write_bytes(b"x")
    key = FolderSource(folder).key()
    assert key != before
    (folder / "a" / "1.heic").write_bytes(b"longer")
    assert FolderSource(folder).key() == key
