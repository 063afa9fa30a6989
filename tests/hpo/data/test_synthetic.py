"""Synthetic cells: equal for equal seeds, imbalanced, whole or absent on the disk, and hard for a linear probe."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn

from hpo.data.synthetic import CELL_CLASSES, cells_arrays, draw_cell, write_cells
from hpo.errors import DataError


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


@pytest.mark.parametrize("size", [16, 33, 96])
@pytest.mark.parametrize("label", range(8), ids=CELL_CLASSES)
def test_a_cell_is_a_picture_of_its_size(label, size):
    image = draw_cell(label, 5, size)
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    assert image.std() > 5


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_cell():
    assert np.array_equal(draw_cell(6, 7), draw_cell(6, 7))
    assert not np.array_equal(draw_cell(6, 7), draw_cell(6, 8))
    assert not np.array_equal(draw_cell(6, 7), draw_cell(5, 7))


def test_drawing_in_threads_gives_the_same_bytes():
    jobs = [(index % 8, index) for index in range(40)]
    alone = [draw_cell(label, seed, 48) for label, seed in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: draw_cell(*job, 48), jobs))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_arrays_are_seeded_and_no_two_images_are_equal():
    images, labels = cells_arrays(60, 32, seed=1)
    again, same_labels = cells_arrays(60, 32, seed=1)
    other, _ = cells_arrays(60, 32, seed=2)
    assert np.array_equal(images, again)
    assert np.array_equal(labels, same_labels)
    assert len({image.tobytes() for image in [*images, *other]}) == 120


def test_classes_are_as_unequal_as_in_the_pbc_set():
    _, labels = cells_arrays(400, 16)
    counts = dict(zip(CELL_CLASSES, np.bincount(labels, minlength=8), strict=True))
    assert sum(counts.values()) == 400
    assert max(counts, key=counts.__getitem__) == "neutrophil"
    assert 2 < counts["neutrophil"] / counts["lymphocyte"] < 3


def test_written_folders_hold_the_images_of_the_arrays(tmp_path):
    write_cells(tmp_path, 30, size=48, seed=4)
    images, labels = cells_arrays(30, 48, seed=4)
    assert {folder.name for folder in tmp_path.iterdir()} == set(CELL_CLASSES)
    counts = [len(list((tmp_path / name).iterdir())) for name in CELL_CLASSES]
    assert sum(counts) == 30
    assert min(counts) >= 2
    for name, label in [("eosinophil", 1), ("platelet", 7)]:
        for path in (tmp_path / name).iterdir():
            index = int(path.stem.removeprefix("cell_"))
            decoded = cv2.imread(str(path))[..., ::-1].astype(int)
            assert labels[index] == label
            assert np.abs(decoded - images[index]).mean() < 8, "more than JPEG loses"


def test_the_same_seed_writes_the_same_files(tmp_path):
    write_cells(tmp_path / "a", 16, size=32, seed=9)
    write_cells(tmp_path / "b", 16, size=32, seed=9)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 16


def test_splits_hold_every_class_in_every_part_and_no_image_twice(tmp_path):
    write_cells(tmp_path, 160, size=16, splits=True)
    counts = {part: [len(list((tmp_path / part / name).iterdir())) for name in CELL_CLASSES] for part in PARTS}
    assert {folder.name for folder in tmp_path.iterdir()} == set(PARTS)
    assert min(min(of_class) for of_class in counts.values()) >= 1
    assert sum(counts["train"]) + sum(counts["val"]) + sum(counts["test"]) == 160
    assert sum(counts["val"]) == sum(counts["test"]) == pytest.approx(16, abs=4)
    assert len(set(files(tmp_path).values())) == 160


def test_progress_counts_every_image(tmp_path):
    seen = []
    write_cells(tmp_path, 16, size=16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 16) for done in range(1, 17)]


@pytest.mark.parametrize(("count", "splits", "least"), [(15, False, 16), (23, True, 24), (0, False, 16)])
def test_too_few_images_are_refused(tmp_path, count, splits, least):
    with pytest.raises(DataError, match=f"{count} images are too few for 8 classes: ask for at least {least}"):
        write_cells(tmp_path, count, splits=splits)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="is a file, but must be a folder"):
        write_cells(tmp_path / "out", 16)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="is not empty; remove it, or name another folder"):
        write_cells(tmp_path, 16)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


def test_an_interruption_leaves_no_half_set(tmp_path):
    def interrupt(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cells(tmp_path, 16, size=16, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    write_cells(tmp_path, 16, size=16)
    assert len(files(tmp_path)) == 16


def test_raw_pixels_alone_do_not_separate_the_classes():
    """A fast proxy of the slow test below: a linear probe beats the majority class, and is far from perfect."""
    images, labels = cells_arrays(900, 24)
    assert 0.3 < probe_accuracy(images[:600], labels[:600], images[600:], labels[600:]) < 0.68


@pytest.mark.slow(30)
def test_a_small_cnn_is_better_than_a_linear_probe(single_thread):
    """On 1,600 cells of 48 pixels: probe 0.61 at the best of three penalties, CNN 0.97 after 33 s on one core."""
    images, labels = cells_arrays(2100, 48)
    split = images[:1600], labels[:1600], images[1600:], labels[1600:]
    probe = max(probe_accuracy(*split, penalty) for penalty in (1, 1e-2, 1e-3))
    assert 0.45 < probe < 0.66
    assert cnn_accuracy(*split) > 0.92


PARTS = ("train", "val", "test")


@pytest.fixture
def single_thread():
    """Limit torch to one core, so that the time of the CNN is comparable."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def probe_accuracy(images, labels, test_images, test_labels, penalty: float = 1e-2) -> float:
    """Accuracy of logistic regression on raw pixels; `penalty` is scikit-learn's C."""

    def flat(batch):
        return (batch.reshape(len(batch), -1) / 127.5 - 1).astype(np.float32)

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=penalty, max_iter=60).fit(flat(images), labels)
    return float(model.score(flat(test_images), test_labels))


def cnn_accuracy(images, labels, test_images, test_labels, epochs: int = 14, batch: int = 32) -> float:
    """Accuracy of three convolutions and a linear layer, trained with flips and quarter turns."""

    def tensor(pictures):
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1

    torch.manual_seed(0)
    widths = [3, 16, 32, 64]
    blocks = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
        for i, o in pairwise(widths)
    ]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 8))
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, steps)
    pictures, targets = tensor(images), torch.from_numpy(labels)
    for _ in range(epochs):
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            turned = torch.rot90(pictures[rows], int(torch.randint(4, ())), (2, 3))
            moved = turned.flip(3) if torch.rand(()) < 0.5 else turned
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(moved), targets[rows]).backward()
            optimiser.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        predicted = model(tensor(test_images)).argmax(1).numpy()
    return float((predicted == test_labels).mean())
