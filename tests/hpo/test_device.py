"""Cores of a process: control groups of both versions, simulated in folders. Tasks that are computed side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from hpo.device import cores, quotas, side_by_side

ALLOWED = len(os.sched_getaffinity(0))
Make = Callable[..., Path]


@pytest.fixture
def process(tmp_path: Path) -> Make:
    """Return a process in the group `path` of a hierarchy mounted at `root`; `limits`: group -> file -> content."""

    def make(
        limits: dict[str, dict[str, str]], *, path: str = "/", root: str = "/", version: int = 2, mount: str = "cg"
    ) -> Path:
        mounted = tmp_path / mount
        for group, files in limits.items():
            folder = mounted / group.strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (folder / name).write_text(content)
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,cpu,cpuacct"
        shown = str(mounted).replace(" ", r"\040")
        other = f"30 25 0:27 / {tmp_path}/pids rw - cgroup cgroup rw,pids"
        (tmp_path / "mountinfo").write_text(f"{other}\n31 25 0:28 {root} {shown} rw,nosuid shared:9 - {kind}\n")
        member = f"0::{path}" if version == 2 else f"4:cpu,cpuacct:{path}\n2:pids:/elsewhere"
        (tmp_path / "cgroup").write_text(f"{member}\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", []),
        ("100000 100000\n", [1]),
        ("150000 100000\n", [2]),
        ("200000 100000\n", [2]),
        ("200001 100000\n", [3]),
        ("50000 100000\n", [1]),
        ("1000 100000\n", [1]),
        ("3000000 1000000\n", [3]),
        ("250000\n", [3]),
        ("max\n", []),
        ("", []),
        ("\n", []),
        ("many 100000\n", []),
        ("100000 0\n", []),
        ("-1 100000\n", []),
        ("0 100000\n", []),
        ("1.5 1\n", []),
        ("100000 x\n", []),
        ("\udcff\n".encode("utf-8", "surrogateescape").decode("latin-1"), []),
    ],
)
def test_version_2_gives_a_quota_and_a_period(process: Make, content: str, expected: list[int]) -> None:
    assert list(quotas(process({"/": {"cpu.max": content}}))) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, []),
        ({"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "100000\n"}, [2]),
        ({"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "50000\n"}, [3]),
        ({"cpu.cfs_quota_us": "150000\n"}, [2]),
        ({"cpu.cfs_quota_us": "x\n", "cpu.cfs_period_us": "100000\n"}, []),
        ({"cpu.cfs_quota_us": "150000\n", "cpu.cfs_period_us": "0\n"}, []),
        ({}, []),
    ],
)
def test_version_1_has_a_file_for_each(process: Make, files: dict[str, str], expected: list[int]) -> None:
    assert list(quotas(process({"/": files}, version=1))) == expected


@pytest.mark.parametrize("version", [1, 2])
def test_the_lowest_limit_of_nested_groups_counts(process: Make, version: int) -> None:
    def limit(count: int) -> dict[str, str]:
        if version == 2:
            return {"cpu.max": f"{count}00000 100000"}
        return {"cpu.cfs_quota_us": f"{count}00000", "cpu.cfs_period_us": "100000"}

    groups = {"/kubepods": limit(7), "/kubepods/pod 1": limit(1), "/kubepods/pod 1/c": limit(4), "/other": limit(1)}
    place = process(groups, path="/kubepods/pod 1/c", version=version, mount="control groups")
    assert sorted(quotas(place)) == [1, 4, 7]
    assert cores(place) == 1


def test_a_container_sees_its_own_group_at_the_mount(process: Make) -> None:
    """Without a cgroup namespace the path is the host's, and the mount begins at the container's group."""
    group = {"cpu.max": "100000 100000"}
    assert list(quotas(process({"/": group}, path="/docker/abc", root="/docker/abc"))) == [1]
    deeper = {"/": {"cpu.max": "max 100000"}, "/init": group}
    assert list(quotas(process(deeper, path="/docker/abc/init", root="/docker/abc"))) == [1]
    assert list(quotas(process({"/": group}, path="/../../elsewhere"))) == [1]


def test_a_limit_above_the_affinity_has_no_effect(process: Make) -> None:
    assert cores(process({"/": {"cpu.max": f"{ALLOWED + 3}00000 100000"}})) == ALLOWED


def test_unreadable_files_set_no_limit(process: Make, tmp_path: Path) -> None:
    assert cores(tmp_path / "nowhere") == ALLOWED
    place = process({"/": {"cpu.max": "100000 100000"}})
    (place / "mountinfo").write_text("rubbish\n\n31 25\n - \n31 25 0:28 / /x rw -\n")
    assert cores(place) == ALLOWED
    (place / "cgroup").write_text("rubbish\n::\n")
    assert cores(place) == ALLOWED


@pytest.fixture
def group() -> Iterator[Path]:
    """Return a real control group for half a core, if this machine permits one."""
    parent = Path("/sys/fs/cgroup/cpu")
    folder = parent / f"hpo-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no control group of version 1 can be made here")
    try:
        (folder / "cpu.cfs_quota_us").write_text("50000")
        yield folder
    finally:
        folder.rmdir()


def test_a_process_in_a_real_group_counts_its_cores(group: Path) -> None:
    join = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); "
    code = join + "from hpo.device import cores; print(cores())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(group / "cgroup.procs")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize("threads", [1, 3])
def test_tasks_side_by_side_each_in_one_thread_and_in_their_order(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        begun: list[int] = []

        def work(task: int) -> tuple[int, int]:
            begun.append(task)
            return task, torch.get_num_threads()

        assert list(side_by_side(work, range(20))) == [(task, 1) for task in range(20)]
        assert torch.get_num_threads() == threads
        begun.clear()
        with closing(side_by_side(work, range(1000))) as results:
            assert next(results) == (0, 1)
        assert len(begun) <= 2 * threads + 1, "a caller that stops does not wait for all tasks"
        with pytest.raises(ZeroDivisionError):
            list(side_by_side(lambda task: 1 // (task - 3), range(9)))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
