"""Images are recognised by content: in any order, folder, file format and at any packed size."""

import shutil

import numpy as np
import pytest
from PIL import Image

from hpo.data import ImageDigests, SplitOptions, open_dataset, open_whole
from hpo.data.digests import digest_of_part, split_digest

SPLIT = SplitOptions(0, 0.2, 0.2)


@pytest.fixture
def folder(write_classes):
    return write_classes({"cat": 10, "dog": 10})


def opened(path, cache, size=16, split=SPLIT):
    return open_dataset(path, image_size=size, cache=cache, split=split)


def test_bytes_and_back(folder, cache):
    known = ImageDigests.of(opened(folder, cache))
    assert ImageDigests.from_bytes(known.to_bytes()) == known
    assert len(known) == 20
    assert len(known.to_bytes()) < 20 * 33 + 200


@pytest.mark.parametrize("content", [b"", b"no array", ImageDigests(np.zeros((2, 33), np.uint8)).to_bytes()[:-5]])
def test_anything_else_is_refused(content):
    with pytest.raises((ValueError, EOFError)):
        ImageDigests.from_bytes(content)


def test_each_image_is_found_in_its_part(folder, cache):
    dataset = opened(folder, cache)
    known = ImageDigests.of(dataset)
    for code, part in enumerate((dataset.train, dataset.val, dataset.open_test())):
        assert known.codes(part).tolist() == [code] * len(part)
    assert known.took_part(dataset.val).all()
    assert not known.took_part(dataset.open_test()).any()


def test_digests_do_not_depend_on_path_names_or_packed_size(folder, cache, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    for number, file in enumerate(sorted((tmp_path / "moved" / "cat").iterdir())):
        file.rename(file.with_name(f"z{99 - number}.png"))
    here, there, large = opened(folder, cache), opened(tmp_path / "moved", cache), opened(folder, cache, size=48)
    assert ImageDigests.of(here) == ImageDigests.of(there) == ImageDigests.of(large)
    assert split_digest(here) == split_digest(there) == split_digest(large)
    assert digest_of_part(here.open_test()) == digest_of_part(there.open_test()) == ImageDigests.of(here).test_digest


def test_the_split_digest_follows_the_split(folder, cache):
    first, other = (opened(folder, cache, split=SplitOptions(seed, 0.2, 0.2)) for seed in (0, 1))
    assert first.fingerprint == other.fingerprint
    assert split_digest(first) != split_digest(other)


@pytest.mark.parametrize("suffix", ["bmp", "tif", "png"])
def test_a_lossless_copy_in_another_format_is_found(folder, cache, tmp_path, suffix):
    known = ImageDigests.of(opened(folder, cache))
    for file in sorted(folder.glob("*/*.png")):
        target = tmp_path / "copies" / file.parent.name / f"{file.stem}.{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(target, **({"compress_level": 1} if suffix == "png" else {}))
    copies = open_whole(tmp_path / "copies", image_size=32, cache=cache).part
    assert (known.codes(copies) >= 0).all()


def test_other_images_are_not_found(folder, write_classes, cache):
    known = ImageDigests.of(opened(folder, cache))
    others = open_whole(write_classes({"cat": 3, "dog": 3}, under="other", first_seed=500), image_size=16, cache=cache)
    assert (known.codes(others.part) == -1).all()


def test_a_test_image_that_is_trained_on_too_took_part(write_classes, cache):
    folder = write_classes({"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 2})
    shutil.copy(folder / "train" / "cat" / "000.png", folder / "test" / "cat" / "copy.png")
    dataset = opened(folder, cache)
    known, test = ImageDigests.of(dataset), dataset.open_test()
    took_part = known.took_part(test)
    assert [test.names[row].rpartition("/")[2] for row in np.flatnonzero(took_part)] == ["copy.png"]
    assert known.test_digest == digest_of_part(test.subset(np.flatnonzero(~took_part)))
