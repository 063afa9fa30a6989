"""The corrupted copy: equal for every model, made once, and complete or absent."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from hpo.corruptions import CORRUPTIONS, SEVERITIES
from hpo.data.dataset import Part
from hpo.data.synthetic import cells_arrays
from hpo.evaluation.corrupted_copy import corrupted_copy

CLASSES, COUNT, SIZE = 8, 50, 32


@pytest.fixture(scope="module")
def part():
    """Return 50 images of a packed set of 60, shuffled."""
    images, labels = cells_arrays(60, SIZE, seed=4)
    rows = np.random.default_rng(0).permutation(60)[:COUNT]
    return Part(images, rows, labels[rows], [str(row) for row in rows])


def stored(cache: Path):
    (path,) = cache.rglob("*.npy")
    return path


def test_every_image_gets_every_corruption_once(part, tmp_path):
    copy = corrupted_copy(part, tmp_path)
    assert copy.images.shape == (len(CORRUPTIONS) * COUNT, SIZE, SIZE, 3)
    assert copy.images.dtype == np.uint8
    assert not copy.images.flags.writeable
    for number in range(len(CORRUPTIONS)):
        rows = copy.corruption == number
        assert np.array_equal(copy.labels[rows], part.labels)
        original = part.batch(np.arange(COUNT))
        assert (copy.images[rows] != original).any(axis=(1, 2, 3)).mean() > 0.9


def test_severities_are_balanced_within_corruptions_classes_and_images(part, tmp_path):
    copy = corrupted_copy(part, tmp_path)
    for number in range(len(CORRUPTIONS)):
        counts = np.bincount(copy.severity[copy.corruption == number], minlength=6)[1:]
        assert counts.tolist() == [COUNT / 5] * 5
        for label in range(CLASSES):
            of_class = copy.severity[(copy.corruption == number) & (copy.labels == label)]
            assert np.ptp(np.bincount(of_class, minlength=6)[1:]) <= 1
    of_images = copy.severity.reshape(len(CORRUPTIONS), COUNT)
    assert np.array_equal(np.sort(of_images, axis=0)[:, 0], np.repeat(SEVERITIES, 2))


def test_two_copies_in_two_places_are_equal(part, tmp_path):
    first, second = corrupted_copy(part, tmp_path / "a"), corrupted_copy(part, tmp_path / "b")
    assert np.array_equal(first.images, second.images)
    assert np.array_equal(first.severity, second.severity)
    assert stored(tmp_path / "a").name == stored(tmp_path / "b").name


def test_another_seed_gives_another_copy(part, tmp_path):
    first, second = corrupted_copy(part, tmp_path), corrupted_copy(part, tmp_path, seed=1)
    assert not np.array_equal(first.images, second.images)
    assert not np.array_equal(first.severity, second.severity)


def test_the_corruption_of_an_image_depends_on_its_pixels_and_not_on_its_position(part, tmp_path):
    turned = Part(part.images, part.indices[::-1].copy(), part.labels[::-1].copy(), part.names[::-1])
    first, second = corrupted_copy(part, tmp_path), corrupted_copy(turned, tmp_path)
    there = second.images.reshape(len(CORRUPTIONS), COUNT, SIZE, SIZE, 3)[:, ::-1].reshape(first.images.shape)
    alike = first.severity == second.severity.reshape(len(CORRUPTIONS), COUNT)[:, ::-1].ravel()
    assert alike.any()
    assert np.array_equal(first.images[alike], there[alike])


def test_the_file_is_made_once(part, tmp_path):
    corrupted_copy(part, tmp_path)
    made = stored(tmp_path).stat()
    calls = []
    corrupted_copy(part, tmp_path, progress=lambda done, total: calls.append(done))
    assert not calls
    assert stored(tmp_path).stat().st_ino == made.st_ino


def test_progress_counts_to_the_end(part, tmp_path):
    calls = []
    corrupted_copy(part, tmp_path, progress=lambda *state: calls.append(state))
    assert calls[-1] == (500, 500)
    assert [done for done, _ in calls] == list(range(1, 501))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_file_is_made_anew(part, tmp_path, damage):
    expected = np.array(corrupted_copy(part, tmp_path).images)
    path = stored(tmp_path)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes({"truncated": content[:-7], "flipped": content, "empty": b""}[damage])
    assert np.array_equal(corrupted_copy(part, tmp_path).images, expected)
    assert np.array_equal(np.load(stored(tmp_path)), expected)


def test_an_interrupted_write_leaves_no_file_and_leftovers_of_a_killed_one_are_removed(part, tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corrupted_copy(part, tmp_path, progress=interrupt)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".npy", ".tmp")]
    (tmp_path / "corrupted" / "killed.tmp").write_bytes(b"half")
    corrupted_copy(part, tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_is_reported_and_leaves_no_partial_file(part, tiny_disk):
    images = np.tile(part.images, (1, 4, 4, 1))
    large = Part(images, part.indices, part.labels, part.names)
    with pytest.raises(OSError) as failure:  # noqa: PT011 - the number says which
        corrupted_copy(large, tiny_disk)
    assert failure.value.errno == errno.ENOSPC
    assert not [path for path in tiny_disk.rglob("*") if path.suffix in (".npy", ".tmp")]


def test_concurrent_callers_get_the_same_copy_made_once(part, tmp_path):
    copies, makers = [], []

    def make() -> None:
        copies.append(corrupted_copy(part, tmp_path, progress=lambda done, total: makers.append(done)))

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copies) == 3
    assert len(makers) == 500, "it was made more than once"
    assert all(np.array_equal(copies[0].images, copy.images) for copy in copies)


def test_batches_are_all_images_in_order_and_writable(part, tmp_path):
    copy = corrupted_copy(part, tmp_path)
    batches = list(copy.batches(64))
    assert [len(batch) for batch in batches] == [64] * 7 + [52]
    assert np.array_equal(np.concatenate(batches), copy.images)
    assert all(batch.flags.writeable for batch in batches)


def test_accuracy_is_given_for_every_corruption_and_severity(part, tmp_path):
    copy = corrupted_copy(part, tmp_path)
    wrong = (copy.corruption == CORRUPTIONS.index("jpeg")) & (copy.severity == 5)
    conditions = copy.by_condition(~wrong)
    assert [(c.corruption, c.severity) for c in conditions] == [(a, s) for a in CORRUPTIONS for s in SEVERITIES]
    assert {c.images for c in conditions} == {COUNT // 5}
    assert [c.accuracy for c in conditions] == [float((c.corruption, c.severity) != ("jpeg", 5)) for c in conditions]


def test_conditions_without_images_are_left_out(part, tmp_path):
    one = Part(part.images, part.indices[:1], part.labels[:1], part.names[:1])
    copy = corrupted_copy(one, tmp_path)
    conditions = copy.by_condition(np.ones(10, bool))
    assert len(conditions) == 10
    assert {condition.images for condition in conditions} == {1}


def test_copies_of_other_parts_make_room_and_the_used_one_stays(part, tmp_path, monkeypatch):
    """A folder that only grew would fill the disk: each change of a part makes a new file."""
    parts = [part.subset(np.arange(len(part) - left)) for left in range(3)]
    sizes = [corrupted_copy(one, tmp_path / "alone").images.nbytes for one in parts]
    monkeypatch.setattr("hpo.evaluation.corrupted_copy.MOST_BYTES", sizes[0] + sizes[1] + 1_000)
    for one in parts[:2]:
        corrupted_copy(one, tmp_path)
    for path in (tmp_path / "corrupted").glob("*.npy"):
        os.utime(path, (1_000, 1_000))
    kept = corrupted_copy(parts[0], tmp_path)
    corrupted_copy(parts[2], tmp_path)
    left = [path.stat().st_size for path in (tmp_path / "corrupted").glob("*.npy")]
    assert len(left) == 2
    assert max(left) > kept.images.nbytes, "the one that was used last"
