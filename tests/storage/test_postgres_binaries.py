"""Machines that lack something PostgreSQL needs: it works all the same, or one line says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import DatabaseUnavailableError, EmbeddedServer
from storage.postgres_binaries import failure_reason

ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to withhold rights from itself")
pytestmark = pytest.mark.postgres

OPEN = """
import os, resource, sys
from pathlib import Path
from storage import EmbeddedServer, StorageError
user, processes = int(sys.argv[2]), int(sys.argv[3])
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
if processes:
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
try:
    EmbeddedServer.join(Path(sys.argv[1])).leave()
    print("works")
except StorageError as error:
    print("refused:", error)
"""


def opened(home: Path, *before: str, user: int = 0, processes: int = 0) -> str:
    """Open the embedded server under `home` in a process that is started by `before`, and return its output."""
    command = [*before, sys.executable, "-c", OPEN, str(home), str(user), str(processes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    if before and not done.stdout and "Traceback" not in done.stderr:
        pytest.skip(f"cannot be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout.strip()


def without(*capabilities: str) -> tuple[str, ...]:
    dropped = ",".join(f"-{name}" for name in capabilities)
    return ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")


@as_root
@pytest.mark.parametrize(
    "before",
    [without("setuid", "setgid"), without("chown"), without("all"), ("unshare", "--user", "--map-root-user")],
    ids=["setuid", "chown", "all", "user namespace"],
)
def test_root_that_may_not_become_another_user_gets_an_error(empty_home: Path, before: tuple[str, ...]) -> None:
    message = opened(empty_home, *before)
    assert message.startswith("refused: PostgreSQL refuses to run as root, and root may not become user")
    assert "user namespace" in message
    assert "work as an ordinary user" in message
    assert not (empty_home / "postgres").exists()


def mounted(options: str, place: Path | str) -> tuple[str, ...]:
    command = f'mount -t tmpfs -o {options} none "$0" && chmod 755 "$0" 2>/dev/null; exec "$@"'
    return ("unshare", "--mount", "sh", "-c", command, str(place))


@as_root
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_little_or_no_shared_memory_is_enough(options: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hpo-", dir="/var/tmp") as folder:  # the tests' own may be in /dev/shm
        Path(folder).chmod(0o755)
        assert opened(Path(folder, ".hpo"), *mounted(options, "/dev/shm")) == "works"


@as_root
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("ro", "Read-only file system; see to it that it can be written"),
        ("size=2m", "no space left on the device; free some"),
        ("nr_inodes=10", "no space left on the device; free some"),
    ],
)
def test_a_folder_that_cannot_hold_the_data_is_reported_with_the_way_out(
    short_folder: Path, options: str, reason: str
) -> None:
    message = opened(short_folder / ".hpo", *mounted(options, short_folder))
    assert message.startswith("refused: ")
    assert reason in message
    assert "work in another folder" in message


@as_root
def test_a_full_disk_at_the_start_is_reported(home: Path) -> None:
    full = (
        'mount -t tmpfs -o size=60m none /mnt && chmod 755 /mnt && cp -a "$0" /mnt/.hpo && '
        'dd if=/dev/zero of=/mnt/fill bs=4k 2>/dev/null; exec "$@"'
    )
    message = opened(Path("/mnt/.hpo"), "unshare", "--mount", "sh", "-c", full, str(home))
    assert "does not start: no space left on the device; free some" in message


@as_root
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_limit_of_processes_is_reported(short_folder: Path, processes: int) -> None:
    short_folder.chmod(0o777)
    message = opened(short_folder / ".hpo", user=1, processes=processes)
    assert "no further process can be started here; raise `ulimit -u`" in message


@as_root
def test_a_copy_that_root_made_with_other_owners_and_modes_works(home: Path) -> None:
    copy = home.parent / "copy"
    subprocess.run(["cp", "-r", str(home), str(copy)], check=True)
    (copy / "postgres").chmod(0o755)
    assert (copy / "postgres").stat().st_uid == 0
    EmbeddedServer.join(copy).leave()
    assert (copy / "postgres").stat().st_mode & 0o777 == 0o700


def test_data_with_open_permissions_are_made_private(home: Path) -> None:
    subprocess.run(["chmod", "-R", "a+rwX", str(home / "postgres")], check=True)
    EmbeddedServer.join(home).leave()
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.parametrize(("mode", "owner"), [(0o755, "root"), (0o777, "postgres")])
def test_a_folder_of_another_user_names_that_user(home: Path, mode: int, owner: str) -> None:
    if owner == "root":
        EmbeddedServer.join(home).leave()
    home.chmod(mode)
    for lock in home.glob("postgres.*"):
        lock.chmod(0o666 if mode == 0o777 else 0o644)
    message = opened(home, user=65534)
    assert message.startswith("refused: ")
    assert f"belongs to user {owner}" in message or f"work as {owner}, who owns {home}" in message
    assert "give --storage a URL" in message


@pytest.mark.parametrize("missing", ["PG_VERSION", "global"])
def test_incomplete_data_are_refused(home: Path, missing: str) -> None:
    path = home / "postgres" / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = sorted(home.rglob("*"))
    with pytest.raises(DatabaseUnavailableError, match=r"is a part of a database only .*complete it, or move it away"):
        EmbeddedServer.join(home)
    assert [path for path in sorted(home.rglob("*")) if path.parent != home] == [
        path for path in before if path.parent != home
    ]


def test_an_empty_folder_is_filled(empty_home: Path) -> None:
    (empty_home / "postgres").mkdir(parents=True)
    EmbeddedServer.join(empty_home).leave()
    assert (empty_home / "postgres" / "PG_VERSION").is_file()


def test_a_path_that_is_not_valid_for_a_socket_is_refused_without_a_temporary_folder(
    short_folder: Path, furnish: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = furnish(short_folder / ("deep" * 40))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DatabaseUnavailableError, match=r"cannot be a socket's .*set TMPDIR to a short path"):
        EmbeddedServer.join(home)


@pytest.mark.parametrize(
    ("output", "way_out"),
    [
        ("FATAL:  could not create shared memory segment: No space left on device", "raise kernel.shmmni"),
        ("FATAL:  could not resize shared memory segment: No space left on device", "--shm-size"),
        ('FATAL:  could not write to file "x": No space left on device', "free some"),
        ("LOG:  could not fork new process for connection: Resource temporarily unavailable", "ulimit -u"),
        ("sh: 0: Cannot fork", "ulimit -u"),
        ("one line\nFATAL:  something else\nand another", "FATAL:  something else"),
        ("", "it gives no reason"),
    ],
)
def test_the_way_out_follows_from_the_output_of_a_program(output: str, way_out: str) -> None:
    assert way_out in failure_reason(output)
