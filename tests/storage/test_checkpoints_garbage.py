"""What `hpo gc` removes, and what it must keep."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage import CheckpointStore, open_objects, open_store, remove_stray_study, stray_studies

FILES = {"a": b"x" * 100}


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return tmp_path if request.param == "folder" else request.getfixturevalue("s3_root")  # type: ignore[no-any-return]


def kinds(store: CheckpointStore) -> set[tuple[int, str]]:
    return {(trial, kind) for trial in store.trials() for kind in ("latest", "best") if store.has(trial, kind)}  # type: ignore[arg-type]


def test_everything_that_no_kept_and_no_unfinished_trial_needs_is_removed(root: Path | str) -> None:
    store = open_store(root, "cells")
    for trial in (0, 1, 2):
        for kind in ("best", "latest"):
            store.write(trial, kind, FILES, {})  # type: ignore[arg-type]
    before = store.usage()
    announced = store.collect(finished={0, 1}, keep={1}, dry_run=True)
    assert ([one.trial for one in announced], store.usage()) == ([0, 1], before)
    freed = store.collect(finished={0, 1}, keep={1})
    assert freed == announced
    assert [one.what for one in freed] == ["weights of its best epoch, state to go on from", "state to go on from"]
    assert kinds(store) == {(1, "best"), (2, "best"), (2, "latest")}
    assert sum(one.size for one in freed) == before - store.usage() == before // 2
    assert store.collect(finished={0, 1}, keep={1}) == []


def test_a_trial_that_the_caller_does_not_know_is_kept(root: Path | str) -> None:
    store = open_store(root, "cells")
    store.write(7, "latest", FILES, {})
    assert store.collect(finished=(), keep=()) == []
    assert store.has(7, "latest")


def test_drafts_of_killed_writers_are_removed_once_no_writer_can_be_using_them(tmp_path: Path) -> None:
    store = open_store(tmp_path, "cells")
    store.write(3, "latest", FILES, {}, token=2)
    objects = open_objects(tmp_path / "cells")
    young, old, former = (f"3/latest-000000000{token}-0000000{n}/a" for token, n in ((2, "02"), (2, "03"), (1, "01")))
    for key in (young, old, former):
        objects.put(key, b"half")
    os.utime(tmp_path / "cells" / old, (0, 0))
    (freed,) = store.collect(finished=(), keep=())
    assert (freed.trial, freed.size, freed.what) == (3, 8, "left by a killed writer")
    assert {found.key for found in objects.list()} >= {young}
    assert not {found.key for found in objects.list()} & {old, former}


def test_studies_that_no_database_knows_are_found_and_removed(root: Path | str) -> None:
    for study in ("cells", "Old one", "older"):
        open_store(root, study).write(0, "best", FILES, {})
    open_objects(root).put("mine/notes.txt", b"not a study")
    strays = stray_studies(root, ["cells"])
    assert [(name.partition("%")[0], size > 100) for name, size in strays] == [("Old-one", True), ("older", True)]
    remove_stray_study(root, strays[0][0])
    assert [name for name, _ in stray_studies(root, ["cells"])] == ["older"]
    assert open_store(root, "cells").has(0, "best")
    assert open_objects(root).get("mine/notes.txt") == b"not a study"
