"""Packs: made once, whole or not at all, opened by all processes, bounded in memory; and their manifests."""

import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.data import decode
from hpo.data.cache import atomic_cache_folder, lock_cache
from hpo.data.dataset import LeftOut, Unreadable
from hpo.data.folders import FolderSource
from hpo.data.opening import open_source
from hpo.data.pack import PackManifest, PackManifestDraft, open_pack
from hpo.data.pipeline import Decoded
from hpo.data.records import Listing, Record
from hpo.errors import DataError


class Pictures:
    """A source that makes its images when they are read, and counts how often it is opened."""

    chunk = 4

    def __init__(self, count, shape=(40, 40, 3)):
        self.path = Path("pictures")
        self.count, self.shape = count, shape
        self.opened = 0

    def key(self):
        return f"{self.count} {self.shape}"

    def listing(self):
        return Listing(("a", "b"), tuple(Record(f"{n}", n % 2, None) for n in range(self.count)))

    @contextmanager
    def reads(self):
        self.opened += 1
        yield (self._read(n) for n in range(self.count))

    def _read(self, number):
        return lambda: np.random.default_rng(number).integers(0, 256, self.shape, dtype=np.uint8)


def left_in(cache):
    return sorted(path.name for path in cache.iterdir() if path.name != ".lock")


def test_rows_are_the_decoded_images(write_classes, cache):
    folder = write_classes({"a": 40, "b": 30})
    pack = open_pack(FolderSource(folder), 16, cache)
    assert pack.images.shape == (70, 16, 16, 3)
    assert pack.manifest.names[45] == "b/005.png"
    for row in (0, 33, 69):
        assert np.array_equal(pack.images[row], decode((folder / pack.manifest.names[row]).read_bytes(), 16))
    part = pack.part(np.array([69, 0]))
    assert part.names == ["b/029.png", "a/000.png"]
    assert part.labels.tolist() == [1, 0]
    assert part.images is pack.images


def test_the_map_cannot_be_written(cache):
    with pytest.raises(ValueError, match="read-only"):
        open_pack(Pictures(4), 8, cache).images[0] = 0


def test_progress_counts_to_the_end(cache):
    seen = []
    open_pack(Pictures(10), 8, cache, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_second_opening_reads_no_image(cache):
    source = Pictures(6)
    first = open_pack(source, 8, cache)
    second = open_pack(source, 8, cache, check=lambda _: pytest.fail("a pack that is there is not checked again"))
    assert source.opened == 1
    assert np.array_equal(first.images, second.images)
    assert first.manifest == second.manifest
    open_pack(source, 12, cache)
    assert source.opened == 2


@pytest.mark.parametrize(
    "harm",
    [
        lambda pack: os.truncate(pack / "images.u8", 100),
        lambda pack: (pack / "images.u8").unlink(),
        lambda pack: (pack / "manifest.json").write_text("{"),
        lambda pack: (pack / "manifest.json").write_text('{"version": 0}'),
        lambda pack: (pack / "manifest.json").unlink(),
    ],
)
def test_a_harmed_pack_is_made_anew(cache, harm):
    source = Pictures(6)
    whole = np.array(open_pack(source, 8, cache).images)
    harm(cache / left_in(cache)[0])
    assert np.array_equal(open_pack(source, 8, cache).images, whole)
    assert source.opened == 2


def test_changed_files_are_packed_anew(write_classes, cache, png):
    folder = write_classes({"a": 2, "b": 2})
    before = open_pack(FolderSource(folder), 16, cache).manifest
    (folder / "a" / "000.png").write_bytes(png(99, (17, 17, 3)))
    after = open_pack(FolderSource(folder), 16, cache).manifest
    assert before.fingerprint != after.fingerprint


BEFORE = (1_000_000_000, 1_000_000_000)


def _exchange(first, second):
    """Swap two files and set both to the time they had."""
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    for file in (first, second):
        os.utime(file, BEFORE)


def _write_over(first, second):
    """Give each of two files of one size the content of the other, in place."""
    contents = second.read_bytes(), first.read_bytes()
    for file, content in zip((first, second), contents, strict=True):
        file.write_bytes(content)
        os.utime(file, BEFORE)


def _set_of(kind, tmp_path, noise):
    """Return two data sets of one kind and size under two names, and the files that may be exchanged between them."""
    paths = [tmp_path / f"first{kind}", tmp_path / f"second{kind}"]
    for number, path in enumerate(paths):
        images = [noise(4 * number + row) for row in range(4)]
        if kind == ".npz":
            np.savez(path, images=images, labels=[0, 0, 1, 1])
        elif kind == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                for row, image in enumerate(images):
                    archive.writestr(f"{'ab'[row // 2]}/{row}.bmp", stored(image))
        else:
            for row, image in enumerate(images):
                file = tmp_path / f"images{number}" / "ab"[row // 2] / f"{row}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(stored(image))
    return paths


def stored(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "BMP")
    return stream.getvalue()


@pytest.mark.parametrize("exchange", [_exchange, _write_over])
@pytest.mark.parametrize("kind", ["folder", ".csv", ".zip", ".npz"])
def test_files_of_one_size_and_time_that_are_exchanged_are_packed_anew(tmp_path, noise, cache, kind, exchange):
    paths = _set_of(kind, tmp_path, noise)
    source, files = paths[0], paths
    if kind in ("folder", ".csv"):
        source = tmp_path / "images0"
        files = [source / "a" / "0.bmp", source / "b" / "2.bmp"]
    if kind == ".csv":
        source = tmp_path / "table.csv"
        source.write_text("path,label\n" + "".join(f"images0/{'ab'[n // 2]}/{n}.bmp,{n // 2}\n" for n in range(4)))
    for file in files:
        os.utime(file, BEFORE)
    before = open_pack(open_source(source), 16, cache)
    exchange(*files)
    after = open_pack(open_source(source), 16, cache)
    assert after.manifest.fingerprint != before.manifest.fingerprint
    assert not np.array_equal(after.images, before.images)


def test_a_copy_of_a_data_set_is_packed_anew_with_the_same_fingerprint(write_classes, tmp_path, cache):
    folder = write_classes({"a": 2, "b": 2})
    shutil.copytree(folder, tmp_path / "copy")
    packs = [open_pack(FolderSource(path), 16, cache) for path in (folder, tmp_path / "copy")]
    assert packs[0].manifest == packs[1].manifest


def _open_in_process(folder, cache, barrier, results):
    barrier.wait()
    ticks = []
    pack = open_pack(FolderSource(folder), 16, cache, progress=lambda done, total: ticks.append(done))
    results.put((bool(ticks), pack.manifest.fingerprint))


def test_of_many_processes_one_packs_and_the_others_wait(write_classes, cache):
    folder = write_classes({"a": 60, "b": 60})
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_open_in_process, args=(folder, cache, barrier, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(packed for packed, _ in outcomes) == [False, False, False, True]
    assert len({fingerprint for _, fingerprint in outcomes}) == 1
    assert len(left_in(cache)) == 1


def test_interruption_leaves_nothing_half_made(cache):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pack(Pictures(200), 8, cache, progress=interrupt)
    assert left_in(cache) == []
    assert len(open_pack(Pictures(200), 8, cache).images) == 200


def test_files_of_a_killed_process_are_removed_by_the_next(write_classes, cache):
    folder = write_classes({"a": 40, "b": 40})
    script = (
        "import os, signal, sys; from pathlib import Path; from hpo.data.pack import open_pack; "
        "from hpo.data.folders import FolderSource; "
        "open_pack(FolderSource(Path(sys.argv[1])), 16, Path(sys.argv[2]), "
        "progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", script, folder, cache], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [name.endswith(".tmp") for name in left_in(cache)] == [True]
    assert len(open_pack(FolderSource(folder), 16, cache).images) == 80
    assert [name.endswith(".tmp") for name in left_in(cache)] == [False]


def test_a_file_that_cannot_grow_is_reported_in_one_line_and_leaves_nothing(write_classes, cache):
    """A limit on file size stands for the full disk: the write itself fails."""
    folder = write_classes({"a": 40, "b": 40})
    script = (
        "import resource, sys; from pathlib import Path; from hpo.data.pack import open_pack; "
        "from hpo.data.folders import FolderSource\n"
        "from hpo.errors import DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: open_pack(FolderSource(Path(sys.argv[1])), 16, Path(sys.argv[2]))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, folder, cache], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"packed images cannot be written to {cache} (File too large; ")
    assert done.stdout.count("\n") == 1
    assert left_in(cache) == []


def test_a_full_disk_is_reported_with_the_free_space_and_the_way_out(cache):
    def fill():
        with atomic_cache_folder(cache / "pack") as new:
            (new / "half").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache.mkdir()
    with pytest.raises(DataError, match=r"\(No space left on device; .* free\): free some space, or give another"):
        fill()
    assert left_in(cache) == []


def test_too_little_space_is_refused_before_anything_is_read(cache):
    class Endless(Pictures):
        def listing(self):
            return Listing(("a",), (Record("x", 0, None),) * 1_000_000)

    source = Endless(4)
    with pytest.raises(DataError, match=r"packing needs 805314\.08 GB in .*, but .* are free: free some"):
        open_pack(source, 16_384, cache)
    assert source.opened == 0
    assert left_in(cache) == []


def test_a_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(DataError, match=r"cannot hold the packed images .*: give another cache folder"):
        open_pack(Pictures(4), 8, tmp_path / "cache")


def test_the_lock_is_free_again_after_a_fault(cache):
    with pytest.raises(ZeroDivisionError), lock_cache(cache):
        raise ZeroDivisionError
    with lock_cache(cache):
        assert (cache / ".lock").exists()


def test_memory_does_not_grow_with_the_data_set(cache, monkeypatch):
    monkeypatch.setattr("hpo.data.pipeline.cores", lambda: 2)

    def peak(count):
        tracemalloc.start()
        open_pack(Pictures(count, (200, 200, 3)), 64, cache)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    few, many = peak(100), peak(600)
    # 500 images more are 60 MB as they are and 6 MB packed; their names and digests take under 2 KB each.
    assert many - few < 500 * 2_000 + 2_000_000


def test_unreadable_images_take_no_row(write_classes, cache):
    folder = write_classes({"a": 3, "b": 3})
    (folder / "a" / "001.png").write_bytes(b"")
    (folder / "b" / "gone.png").symlink_to(folder / "nowhere.png")
    pack = open_pack(FolderSource(folder), 16, cache)
    assert len(pack.images) == len(pack.manifest) == 5
    assert [(u.name, u.reason) for u in pack.manifest.unreadable] == [
        ("a/001.png", "empty file (0 bytes)"),
        ("b/gone.png", "cannot be opened (No such file or directory)"),
    ]


def test_a_set_of_only_unreadable_images_opens_empty(tmp_path, cache):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.png").touch()
    for _ in range(2):
        pack = open_pack(FolderSource(tmp_path / "data"), 16, cache)
        assert pack.images.shape == (0, 16, 16, 3)
        assert len(pack.manifest.unreadable) == 1


PIXELS = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def manifest() -> PackManifest:
    left_out = (LeftOut(".heic", 2, ("a/3.heic", "a/4.heic")), LeftOut("without a suffix", 1, ("b/5",)))
    draft = PackManifestDraft(4, ("a", "b"), left_out, ("classes are folders",))
    draft.add(Record("a/1.png", 0, None), Decoded(PIXELS, "", "s3", "p1"))
    draft.add(Record("a/2.png", 0, "val"), Decoded(None, "empty file (0 bytes)", "s0"))
    draft.add(Record("b/caf\udce9.png", 1, "train"), Decoded(PIXELS, "", "s1", "p1"))
    draft.add(Record("b/4.png", 1, "train"), Decoded(PIXELS, "", "s2", "p2"))
    return draft.finish()


def test_from_json_of_to_json(manifest):
    assert PackManifest.from_json(manifest.to_json()) == manifest
    assert len(manifest) == 3
    assert manifest.label_array.tolist() == [0, 1, 1]
    assert manifest.unreadable == (Unreadable("a/2.png", "empty file (0 bytes)"),)


def test_notes_of_the_listing_and_the_decoder_are_kept(manifest):
    assert [(entry.kind, entry.count) for entry in manifest.left_out] == [(".heic", 2), ("without a suffix", 1)]
    assert manifest.notes == ("classes are folders",)
    draft = PackManifestDraft(4, ("a", "b"), notes=("first",))
    draft.note("second")
    draft.note("second")
    assert draft.finish().notes == ("first", "second")


def test_groups_are_named_by_digests_of_stored_bytes(manifest):
    assert manifest.groups == ["s1", "s1", "s2"]


@pytest.mark.parametrize(
    "change",
    [{"version": 0}, {"labels": [0]}, {"pixels": []}, {"extra": 1}, {"unreadable": [{"file": "x"}]}],
)
def test_text_that_is_not_a_manifest_is_refused(manifest, change):
    text = json.dumps(json.loads(manifest.to_json()) | change)
    with pytest.raises((ValueError, TypeError, KeyError)):
        PackManifest.from_json(text)


def test_fingerprint_is_of_classes_parts_and_content_only(manifest):
    images = [(Record("x", 0, None), "s1"), (Record("y", 1, "val"), "s2")]

    def fingerprint(images, classes=("a", "b"), size=4):
        draft = PackManifestDraft(size, classes)
        for record, stored in images:
            draft.add(record, Decoded(PIXELS, "", stored, "p"))
        return draft.finish().fingerprint

    first = fingerprint(images)
    assert fingerprint(images[::-1], size=8) == first
    assert fingerprint([(replace(record, name="other"), stored) for record, stored in images]) == first
    assert fingerprint(images, classes=("a", "c")) != first
    assert fingerprint([(replace(record, given="train"), stored) for record, stored in images]) != first
    assert fingerprint([(record, "s9") for record, _ in images]) != first
    assert fingerprint([*images, images[0]]) != first
