"""The benchmark of the data doctor plants what it says, the same for the same seed, and scores by hand-made claims."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.doctor_claims import all_pairs, claims_of_findings
from benchmarks.doctor_foreign import KINDS as FOREIGN
from benchmarks.doctor_foreign import pictures
from benchmarks.doctor_pictures import KINDS, draw_picture, encode, make_copy, read_images, turn
from benchmarks.doctor_plants import PlantOptions, Truth, junk_pictures, plant, read_truth, truth_path
from benchmarks.doctor_same import CORRELATION, similarity
from benchmarks.doctor_scores import Claims, average_precision, score
from benchmarks.doctor_table import tables
from benchmarks.doctor_worth import shrunk

IMAGES = 60
FAULTS = {"clusters": (8, 4), "scattered": 3, "copies": 12, "wrong": 0.05, "conflicts": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    for number in range(IMAGES):
        path = folder / f"class{number % 3}" / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(draw_picture(np.random.default_rng([5, number]), 64)))
    return folder


@pytest.fixture(scope="module")
def planted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Truth]]:
    out = tmp_path_factory.mktemp("planted") / "set.zip"
    return out, plant(PlantOptions(data, seed=3, **FAULTS), out)


def test_the_truth_names_every_file_and_the_faults_that_were_asked_for(planted: tuple[Path, list[Truth]]) -> None:
    out, rows = planted
    with zipfile.ZipFile(out) as archive:
        assert sorted(archive.namelist()) == sorted(row.file for row in rows)
    roles = [row.role for row in rows]
    assert (roles.count("junk"), roles.count("copy"), roles.count("wrong")) == (15, 14, 3)
    assert [row.role for row in rows if row.label != row.true_label].count("copy") == FAULTS["conflicts"]
    assert all(row.file.startswith(f"{row.label}/") for row in rows)
    assert read_truth(truth_path(out)) == rows


def test_a_seed_gives_the_same_bytes(data: Path, planted: tuple[Path, list[Truth]], tmp_path: Path) -> None:
    again = tmp_path / "set.zip"
    plant(PlantOptions(data, seed=3, **FAULTS), again)
    assert again.read_bytes() == planted[0].read_bytes()
    plant(PlantOptions(data, seed=4, **FAULTS), again)
    assert again.read_bytes() != planted[0].read_bytes()


def test_untouched_files_keep_their_bytes(data: Path, planted: tuple[Path, list[Truth]]) -> None:
    out, rows = planted
    originals = {image.file: image.data for image in read_images(data)}
    with zipfile.ZipFile(out) as archive:
        assert all(archive.read(row.file) == originals[row.file] for row in rows if row.role == "original")


def test_the_eight_orientations_are_different_and_closed() -> None:
    pixels = draw_picture(np.random.default_rng(0), 16)
    turned = {turn(pixels, way).tobytes() for way in range(8)}
    assert len(turned) == 8
    assert {turn(turn(pixels, 5), way).tobytes() for way in range(8)} == turned


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_the_same_picture_and_another_drawing_is_not(data: Path, kind: str) -> None:
    images = read_images(data)
    stored, _, _ = make_copy(images[0], kind, np.random.default_rng(1))
    copy = type(images[0])("", "", stored).pixels()
    assert similarity(images[0].pixels(), copy)[0] >= CORRELATION
    assert similarity(images[1].pixels(), copy)[0] < CORRELATION


def test_perfect_claims_score_one_and_none_score_nothing(planted: tuple[Path, list[Truth]]) -> None:
    rows = planted[1]
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.group or row.file, []).append(number)
    junk = np.array([number for number, row in enumerate(rows) if row.role == "junk"])
    wrong = np.array([float(row.role == "wrong") for row in rows])
    files = tuple(row.file for row in rows)
    best = score(rows, Claims(files, all_pairs(groups.values()), junk, wrong, junk))
    assert best["copies"]["recall"] == best["copies"]["precision"] == 1
    assert best["junk"]["recall"] == best["junk"]["precision"] == 1
    assert best["labels"]["average_precision"] == 1
    claims = Claims(files, all_pairs([]), labels=wrong, suspects=np.flatnonzero(wrong), probabilities=wrong / 2)
    named = score(rows, claims)["labels"]
    assert (named["named"], named["right"], named["recall"], named["expected"]) == (3, 3, 1, 1.5)
    assert best["cleaning"] == {"dropped": len(junk), "junk_left": 0, "pictures_lost": 0, "lost": []}
    none = score(rows, Claims(files, all_pairs([]), np.array([], dtype=np.int64)))
    assert none["copies"]["recall"] == none["junk"]["recall"] == 0
    assert none["copies"]["precision"] is None


def test_pairs_of_different_pictures_lower_the_precision(planted: tuple[Path, list[Truth]]) -> None:
    rows = planted[1]
    alone = [number for number, row in enumerate(rows) if row.role == "original" and not row.group][:3]
    found = score(rows, Claims(tuple(row.file for row in rows), all_pairs([alone])))["copies"]
    assert (found["pairs"], found["precision"]) == (3, 0)


def test_average_precision_is_the_mean_over_right_items() -> None:
    assert average_precision(np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([False])) is None


def test_findings_become_claims() -> None:
    rows = [
        {"file": "a", "finding": "copy", "group": "1", "score": "1", "action": "keep"},
        {"file": "b", "finding": "copy", "group": "1", "score": "1", "action": "drop"},
        {"file": "c", "finding": "outlier", "group": "", "score": "0.7", "action": "keep"},
        {"file": "d", "finding": "outlier", "group": "", "score": "0.9", "action": "drop"},
        {"file": "e", "finding": "label", "group": "", "score": "0.8", "action": "keep"},
    ]
    claims = claims_of_findings("abcde", rows)
    assert claims.pairs.tolist() == [[0, 1]]
    assert claims.junk is not None
    assert claims.junk.tolist() == [3]
    assert claims.dropped is not None
    assert claims.dropped.tolist() == [1, 3]
    assert claims.labels is not None
    assert claims.labels.tolist() == [0, 0, 0, 0, 0.8]
    assert claims.suspects is not None
    assert claims.suspects.tolist() == [4]


def test_the_table_has_a_row_for_each_method(planted: tuple[Path, list[Truth]]) -> None:
    rows = planted[1]
    claims = Claims(tuple(row.file for row in rows), all_pairs([range(4)]), np.array([0]))
    run = {"date": "today", "machine": "this", "load": 0, "command": "bench"}
    found = {"method": {"0": score(rows, claims)}}
    text = "\n".join(tables({"rivals": {"run": run, "found": found}}))
    assert "| method | " in text


def test_a_share_of_the_junk_is_drawn_and_the_rest_read(data: Path, tmp_path: Path) -> None:
    for drawn, expected in ((0.0, [0, 0, 0, 0]), (0.5, [0, 1, 0, 1]), (1.0, [1, 1, 1, 1]), (0.25, [0, 0, 0, 1])):
        options = PlantOptions(data, data, drawn=drawn)
        origins = [origin for _, origin in junk_pictures(options, 4, 32, np.random.default_rng(0))]
        assert [origin == "drawn" for origin in origins] == expected


def test_foreign_pictures_are_all_different_and_the_same_again() -> None:
    made = dict(pictures(list(FOREIGN), 4, 32, 0))
    assert made == dict(pictures(list(FOREIGN), 4, 32, 0))
    assert len(set(made.values())) == 12


def test_the_faults_shrink_with_the_images(data: Path) -> None:
    small = shrunk(PlantOptions(data, clusters=(8, 4), scattered=8, copies=20), 0.5)
    assert (small.images, small.clusters, small.scattered, small.copies) == (30, (4, 2), 4, 10)
