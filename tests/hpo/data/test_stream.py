"""iter_images: unlabelled images of any source, in batches."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from hpo.data import decode, fit_array, iter_images
from hpo.errors import DataError


@pytest.fixture
def folder(write_classes):
    return write_classes({"x/deep": 3, "y": 4})


def gathered(paths, batch=3):
    batches = list(iter_images(paths, 8, batch))
    names = [name for names, _, _ in batches for name in names]
    pixels = np.concatenate([pixels for _, pixels, _ in batches])
    skipped = [entry for _, _, skipped in batches for entry in skipped]
    return names, pixels, skipped


def test_a_folder_is_read_to_the_bottom(folder):
    names, pixels, skipped = gathered(folder)
    assert names == [str(folder / "x/deep" / f"00{n}.png") for n in range(3)] + [
        str(folder / "y" / f"00{n}.png") for n in range(4)
    ]
    assert pixels.shape == (7, 8, 8, 3)
    assert np.array_equal(pixels[5], decode((folder / "y" / "002.png").read_bytes(), 8))
    assert skipped == []


def test_batches_are_full_but_the_last(folder):
    assert [len(names) for names, _, _ in iter_images(folder, 8, 3)] == [3, 3, 1]


def test_one_image_and_several_paths(folder, noise, tmp_path):
    np.savez(tmp_path / "a.npz", images=noise(0, (5, 9, 9, 3)))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(folder / "y" / "000.png", "inner/z.png")
        archive.writestr("__MACOSX/z.png", b"")
    one = folder / "y" / "001.png"
    names, pixels, _ = gathered([one, tmp_path / "a.npz", tmp_path / "b.zip", str(one)])
    rows = [f"{tmp_path / 'a.npz'}:images[{n}]" for n in range(5)]
    assert names == [str(one), *rows, f"{tmp_path / 'b.zip'}:inner/z.png", str(one)]
    assert np.array_equal(pixels[3], fit_array(noise(0, (5, 9, 9, 3))[2], 8))
    assert np.array_equal(pixels[0], pixels[7])


def test_unreadable_images_come_with_the_batch_in_which_they_fell(folder):
    (folder / "x/deep/000.png").write_bytes(b"")
    (folder / "y/003.png").write_bytes(b"nonsense")
    batches = list(iter_images(folder, 8, 5))
    assert [len(names) for names, _, _ in batches] == [5, 0]
    assert [[entry.reason[:10] for entry in skipped] for _, _, skipped in batches] == [["empty file"], ["not an ima"]]
    assert batches[1][1].shape == (0, 8, 8, 3)


HEIC = b"\x00\x00\x00\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 5000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("z.heic", HEIC, "a HEIC image: convert it"),
        ("z.txt", b"some words", "a text: remove it"),
        ("z.bin", bytes(range(200, 256)), "not an image of a known format (jpg, "),
        ("z", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "looks like an image, but its name has none of the suffixes jpg, "),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_without_a_suffix_of_images_are_described_by_their_content(
    folder, tmp_path, name, content, words, packed
):
    (folder / name).write_bytes(content)
    path = folder
    if packed:
        path = tmp_path / "packed.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*.*")):
                archive.write(file, file.relative_to(folder))
            archive.write(folder / name, f"y/{name}")
    reasons = {entry.name.removeprefix(str(path)).strip(":/"): entry.reason for entry in gathered(path)[2]}
    assert words in next(reason for image, reason in reasons.items() if image.endswith(name))


def test_a_csv_without_rows_is_refused_by_its_name(tmp_path, folder):
    (tmp_path / "empty.csv").write_text("path\n\n")
    with pytest.raises(DataError, match=r"empty\.csv has a header but no rows: add one row per image"):
        gathered([tmp_path / "empty.csv", folder])


def test_batches_do_not_share_memory(folder):
    first, second, _ = (pixels for _, pixels, _ in iter_images(folder, 8, 3))
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize("name", ["nowhere", "notes.txt"])
def test_a_path_of_no_use_is_refused_at_once(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"does not exist|is a file, but must be a folder, a \.zip, an \.npz, a \.csv or an image"
    ):
        iter_images(tmp_path / name, 8, 4)


def test_no_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no images in .*: give a folder, a zip or an \.npz that holds some"):
        list(iter_images(tmp_path, 8, 4))


def test_an_abandoned_stream_ends(folder):
    stream = iter_images(folder, 8, 2)
    names, _, _ = next(stream)
    stream.close()
    assert len(names) == 2
    assert list(stream) == []


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("hpo.data.pipeline.cores", lambda: 2)
    np.savez(tmp_path / "many.npz", images=np.zeros((1000, 200, 200, 3), np.uint8))
    tracemalloc.start()
    count = sum(len(names) for names, _, _ in iter_images(tmp_path / "many.npz", 8, 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 1000
    # The images are 120 MB; what waits for two threads is some 20 MB and two blocks of 8 MiB.
    assert peak < 60e6
