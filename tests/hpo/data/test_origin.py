"""What is remembered of a data set, and what is said where it is another one."""

import shutil

import pytest

from hpo.data import DataOrigin, SplitOptions, open_dataset
from hpo.errors import DataError

SPLIT = SplitOptions(4, 0.2, 0.2)


@pytest.fixture
def folder(write_classes):
    return write_classes({"cat": 10, "dog": 10})


@pytest.fixture
def origin(folder, cache):
    return DataOrigin.of(open_dataset(folder, image_size=16, cache=cache, split=SPLIT), SPLIT, 0.1)


def refuse(origin, folder, cache, options=SPLIT):
    dataset = open_dataset(folder, image_size=16, cache=cache, split=options)
    origin.refuse_other_images(dataset, folder, maker="study 's'", way_out="give the same data", classes=("cat", "dog"))
    origin.refuse_other_split(dataset, folder, options=options, maker="study 's'", way_out="split it so")


def test_what_a_study_stores_gives_it_back(origin):
    facts = origin.facts(("cat", "dog"))
    assert facts["classes"] == ["cat", "dog"]
    assert DataOrigin.from_facts(facts, origin.fingerprint) == origin
    assert (origin.options, origin.max_unreadable) == (SPLIT, 0.1)
    assert origin.class_counts == {"cat": 10, "dog": 10}
    assert sum(origin.counts.values()) == 20


def test_the_same_data_are_accepted_wherever_they_lie(origin, folder, cache, tmp_path):
    shutil.copytree(folder, tmp_path / "moved")
    refuse(origin, tmp_path / "moved", cache)
    assert origin.reopen(tmp_path / "moved", image_size=24, cache=cache).fingerprint == origin.fingerprint


def add(folder, png):
    (folder / "cat" / "new.png").write_bytes(png(900))


def remove(folder, png):
    (folder / "dog" / "000.png").unlink()
    (folder / "dog" / "001.png").unlink()


def rename(folder, png):
    (folder / "cat").rename(folder / "lynx")


def replace(folder, png):
    (folder / "cat" / "000.png").write_bytes(png(901))


def move(folder, png):
    (folder / "cat" / "000.png").rename(folder / "dog" / "moved.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add, "1 image more (21, then 20)"),
        (remove, "2 images fewer (18, then 20)"),
        (rename, "class 'lynx' is new, class 'cat' is gone"),
        (replace, "as many images of the same classes, but not the same ones"),
        (move, "cat 1 fewer, dog 1 more"),
    ],
)
def test_what_changed_is_said(origin, folder, cache, png, change, said):
    change(folder, png)
    with pytest.raises(DataError) as caught:
        refuse(origin, folder, cache)
    assert str(caught.value).startswith(f"study 's' was made with other images than {folder}: {said}")
    assert str(caught.value).endswith("give the same data")


def test_given_parts_that_changed_are_said(write_classes, cache):
    folder = write_classes({"train/cat": 9, "train/dog": 9, "test/cat": 2, "test/dog": 2})
    dataset = open_dataset(folder, image_size=16, cache=cache, split=SPLIT)
    origin = DataOrigin.of(dataset, SPLIT, 0.05)
    (folder / "test" / "cat" / "000.png").rename(folder / "train" / "cat" / "moved.png")
    with pytest.raises(DataError, match=r"as many images in other parts \(.*3 test; then .*4 test\)"):
        refuse(origin, folder, cache)


def test_another_split_of_the_same_images_is_refused(origin, folder, cache):
    with pytest.raises(DataError, match=r"«stratified 60/20/20, seed 4», but here it is «.*seed 5».*; split it so"):
        refuse(origin, folder, cache, SplitOptions(5, 0.2, 0.2))


def test_another_split_by_the_same_words_is_refused(origin, folder, cache):
    elsewhere = origin.model_copy(update={"split_digest": "0" * 32})
    with pytest.raises(DataError, match="here other images validate or test"):
        refuse(elsewhere, folder, cache)


def test_without_a_digest_the_options_and_words_decide(origin, folder, cache):
    old = DataOrigin.model_validate(origin.model_dump(exclude={"split_digest", "class_counts", "counts"}))
    assert not old.split_is_known
    refuse(old, folder, cache)
    refuse(old.model_copy(update={"split": "in words of an earlier version"}), folder, cache)
    with pytest.raises(DataError, match="seed 5"):
        refuse(old, folder, cache, SplitOptions(5, 0.2, 0.2))


def test_classes_are_known_without_counts_too(origin, folder, cache):
    old = DataOrigin.model_validate(origin.model_dump(exclude={"split_digest", "class_counts", "counts"}))
    rename(folder, None)
    with pytest.raises(DataError, match="class 'lynx' is new, class 'cat' is gone"):
        refuse(old, folder, cache)
