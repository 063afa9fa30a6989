"""One folder in several containers, hosts, copies and paths: never more than one server runs on the data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from storage import DatabaseUnavailableError, EmbeddedServer, open_database, server_record
from storage.server_record import FILE, ServerRecord

ROOT = Path(__file__).parents[2]
CONTAINER = ("unshare", "--pid", "--mount", "--ipc", "--fork", "--mount-proc", "--kill-child")
pytestmark = pytest.mark.postgres

# Joins, writes a row, says how many there are, and waits for a line before each further row.
WRITER = """
import sys
from pathlib import Path
from storage import StorageError, open_database
try:
    database = open_database(None, home=Path(sys.argv[1]), start_timeout=float(sys.argv[2]))
except StorageError as error:
    print("refused:", error)
    sys.exit(2)
with database:
    while True:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS kept (answer int)")
            connection.exec_driver_sql("INSERT INTO kept VALUES (42)")
            rows = connection.exec_driver_sql("SELECT count(*) FROM kept").scalar()
        print("rows", rows, flush=True)
        if not sys.stdin.readline():
            break
"""


def script(home: Path, *before: str, start_timeout: float = 0) -> list[str]:
    return [*before, sys.executable, "-c", WRITER, str(home), str(start_timeout)]


def write_row(home: Path, *before: str) -> str:
    """Run a process, started by `before`, that writes a row and leaves; return its output."""
    done = subprocess.run(
        script(home, *before), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.strip()


class Process:
    """A process that uses the folder until it is ended or killed."""

    def __init__(self, home: Path, *before: str) -> None:
        self._process = subprocess.Popen(
            script(home, *before, start_timeout=30), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline().strip()

    def goes_on(self) -> str:
        """Let it write a further row; return its output, empty once it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=30)

    def kill_container(self, home: Path) -> None:
        """Kill it with its container, and wait until the kernel has ended the container's PostgreSQL as well."""
        self.kill()
        end = time.monotonic() + 30
        while server_record.is_locked(home / "postgres"):
            assert time.monotonic() < end, "the PostgreSQL of a killed container goes on"
            time.sleep(0.01)


class Run:
    """The use of a folder by this process; it writes a row at once."""

    def __init__(self, home: Path) -> None:
        self._database = open_database(None, home=home, start_timeout=1)
        self.said = self.goes_on()

    def goes_on(self) -> str:
        with self._database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS kept (answer int)")
            connection.exec_driver_sql("INSERT INTO kept VALUES (42)")
            return f"rows {connection.exec_driver_sql('SELECT count(*) FROM kept').scalar()}"

    def end(self) -> None:
        self._database.close()


def write_here(home: Path) -> str:
    """Write a row from this process, as a second use of the folder; return the output."""
    try:
        run = Run(home)
    except DatabaseUnavailableError as error:
        return f"refused: {error}"
    run.end()
    return run.said


@pytest.fixture(scope="session")
def _namespaces() -> None:
    probe = subprocess.run([*CONTAINER, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no namespaces can be made here: {probe.stderr.decode().strip()}")


def at_another_path(folder: Path, *kinds: str, before: str = "true") -> tuple[str, ...]:
    """Return a container with `folder` at /mnt, and another folder at its own path."""
    shown = f'{before}; mount --bind "$0" /mnt && mount -t tmpfs none "$0" && exec "$@"'
    return (*(kinds or CONTAINER), "sh", "-c", shown, str(folder))


def traces(home: Path) -> dict[str, bytes]:
    """Return the files that a second server would change first."""
    data = home / "postgres"
    names = ("postmaster.pid", "server.log", "postmaster.opts", FILE, "global/pg_control")
    return {
        **{name: (data / name).read_bytes() for name in names},
        "names": "\n".join(sorted(path.name for path in data.iterdir())).encode(),
    }


def postmaster(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0]))


BOOT = 'echo 1-2-3 > "$0/boot"; mount --bind "$0/boot" /proc/sys/kernel/random/boot_id'
FOREIGN = {
    "container": (CONTAINER, "true"),
    "mounts alone": (("unshare", "--mount"), "true"),
    "another host": ((*CONTAINER, "--uts"), f"hostname other; {BOOT}"),
    "user list not seen": (CONTAINER, 'mount --bind /dev/null "$0/.hpo/postgres.users"'),
}


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_in_use_is_refused_if_its_server_cannot_be_reached(kind: str, home: Path) -> None:
    run, (namespaces, before) = Run(home), FOREIGN[kind]
    seen = traces(home)
    message = write_row(Path("/mnt/.hpo"), *at_another_path(home.parent, *namespaces, before=before))
    assert message.startswith("refused: /mnt/.hpo/postgres is in use by another container or host")
    assert "give --storage a URL" in message
    assert "\n" not in message
    assert traces(home) == seen
    assert run.goes_on() == "rows 2"
    run.end()
    assert write_here(home) == "rows 3"


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize("name", ["deep" * 40, "with blank", "ümläut"])
def test_a_folder_whose_socket_is_in_a_private_folder_is_refused_in_another_container(
    short_folder: Path, furnish: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home, temporary = furnish(short_folder / name / ".hpo"), short_folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run = Run(home)
    seen = traces(home)
    assert list(temporary.iterdir())
    message = write_row(home, *CONTAINER, "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(temporary))
    assert f"refused: {home}/postgres is in use by another container or host" in message
    assert traces(home) == seen
    assert run.goes_on() == "rows 2"
    run.end()


@pytest.mark.usefixtures("_namespaces")
def test_no_second_server_is_started_beside_one_without_users(home: Path) -> None:
    Process(home).kill()
    seen, server = traces(home), postmaster(home)
    assert "in use by another container" in write_row(Path("/mnt/.hpo"), *at_another_path(home.parent))
    assert traces(home) == seen
    assert server.is_running()
    assert write_here(home) == "rows 2"


@pytest.mark.usefixtures("_namespaces")
def test_containers_that_see_the_folder_at_one_path_share_its_server(home: Path) -> None:
    run = Run(home)
    assert write_row(home, *CONTAINER) == "rows 2"
    assert run.goes_on() == "rows 3"
    run.end()
    assert not (home / "postgres" / "postmaster.pid").exists()


@pytest.mark.usefixtures("_namespaces")
def test_the_data_of_a_killed_container_open_in_another_without_an_option(home: Path) -> None:
    container = Process(Path("/mnt/.hpo"), *at_another_path(home.parent))
    assert container.said == "rows 1"
    assert "in use by another container" in write_row(home, *CONTAINER)
    container.kill_container(home)
    assert (home / "postgres" / "postmaster.pid").exists()
    assert write_here(home) == "rows 2"


@pytest.mark.usefixtures("_namespaces")
def test_processes_that_used_the_server_of_a_killed_container_restart_it(home: Path) -> None:
    container, *others = Process(home, *CONTAINER), Process(home), Process(home)
    assert [container.said, *(other.said for other in others)] == ["rows 1", "rows 2", "rows 3"]
    container.kill_container(home)
    assert [other.goes_on() for other in others] == ["rows 4", "rows 5"]
    assert write_row(home, *CONTAINER) == "rows 6"
    for other in others:
        other.kill()


@pytest.mark.usefixtures("_namespaces")
def test_a_folder_with_a_busy_server_in_another_container_is_refused_after_a_wait(home: Path) -> None:
    run, server = Run(home), postmaster(home)
    seen = traces(home)
    server.suspend()
    try:
        message = write_row(home, *CONTAINER)
        assert traces(home) == seen
    finally:
        server.resume()
    assert "in use by another container" in message
    assert write_row(home, *CONTAINER) == "rows 2"
    run.end()


def test_a_busy_server_of_this_host_is_tried_again_and_no_second_one_is_started(home: Path) -> None:
    server = EmbeddedServer.join(home)
    process, seen = postmaster(home), traces(home)
    process.suspend()
    try:
        with pytest.raises(DatabaseUnavailableError, match="does not answer after 1 s"):
            EmbeddedServer.join(home, timeout=1)
        assert traces(home) == seen
    finally:
        process.resume()
    EmbeddedServer.join(home).leave()
    server.leave()


def test_a_copy_of_a_folder_in_use_is_refused_and_the_original_is_not_changed(home: Path) -> None:
    run, copy = Run(home), home.parent / "copy"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    message = write_here(copy)
    assert message.startswith(f"refused: {copy}/postgres is a copy of a folder whose PostgreSQL ran, or was killed")
    assert "run `hpo studies` on the original" in message
    assert "\n" not in message
    assert run.goes_on() == "rows 2"
    run.end()
    assert "is a copy of a folder whose PostgreSQL ran, or was killed" in write_here(copy)


def test_a_copy_of_a_folder_whose_server_was_killed_opens_after_the_user_confirms_it(home: Path) -> None:
    crash(home)
    copy = home.parent / "copy"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    message = write_here(copy)
    assert f"remove {copy}/postgres/{FILE} and postmaster.pid" in message
    (copy / "postgres" / FILE).unlink()
    (copy / "postgres" / "postmaster.pid").unlink()
    assert write_here(copy) == "rows 2"
    assert write_here(home) == "rows 2"


def test_a_copy_of_an_unused_folder_gets_its_own_server(home: Path) -> None:
    Run(home).end()
    copy = home.parent / "copy"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    one, other = Run(home), Run(copy)
    assert (one.said, other.said) == ("rows 2", "rows 2")
    assert (one.goes_on(), one.goes_on(), other.goes_on()) == ("rows 3", "rows 4", "rows 3")
    one.end()
    other.end()


@pytest.mark.parametrize("how", ["moved", "linked", "mounted"])
def test_a_folder_under_another_path_is_the_same_folder(how: str, home: Path, request: pytest.FixtureRequest) -> None:
    other, run = home.parent / "other", Run(home)
    if how == "moved":
        run.end()
        home.rename(other)
    elif how == "linked":
        other.symlink_to(home)
    else:
        other.mkdir()
        if subprocess.run(["mount", "--bind", str(home), str(other)], check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        request.addfinalizer(lambda: subprocess.run(["umount", str(other)], check=True))
    assert write_here(other) == "rows 2"
    if how != "moved":
        assert run.goes_on() == "rows 3"
        run.end()


@pytest.mark.parametrize("name", [".hpo", "deep" * 40])
def test_a_folder_that_is_moved_while_in_use_is_refused_until_its_users_end(
    short_folder: Path, furnish: Callable[[Path], Path], name: str
) -> None:
    home, other = furnish(short_folder / name), short_folder / "moved"
    run = Run(home)
    home.rename(other)
    seen = traces(other)
    message = write_here(other)
    assert f"refused: {other}/postgres is in use" in message
    assert f"as {home}/postgres" in message
    assert traces(other) == seen
    assert run.goes_on() == "rows 2"
    run.end()
    assert write_here(other) == "rows 3"


def test_another_folder_at_the_same_path_is_detected(home: Path, furnish: Callable[[Path], Path]) -> None:
    away = home.parent / "away"
    with open_database(None, home=home, start_timeout=1) as database:
        database.now()
        home.rename(away)
        furnish(home)
        database.engine.dispose()
        with pytest.raises(DatabaseUnavailableError, match=r"(moved or replaced|copied, moved)"):
            database.now()
        assert not (home / "postgres" / "postmaster.pid").exists()
        home.rename(home.parent / "new")
        away.rename(home)
        assert database.now()


def test_each_connection_is_checked_to_lead_to_the_server_on_this_folder(
    home: Path, short_folder: Path, furnish: Callable[[Path], Path]
) -> None:
    here, there = EmbeddedServer.join(home), EmbeddedServer.join(furnish(short_folder / "there"))
    session = psycopg2.connect(host=there.url.query["host"], user=there.url.username, dbname="postgres")
    with pytest.raises(DatabaseUnavailableError, match=r"serves .*there/postgres, not .*/.hpo/postgres") as caught:
        here.check(session)
    assert not caught.value.passes
    there.check(session)
    session.close()
    there.leave()
    here.leave()


def crash(home: Path) -> None:
    """Kill the server, and leave it."""
    run, server = Run(home), postmaster(home)
    family = [server, *server.children()]
    server.kill()
    psutil.wait_procs(family, timeout=20)
    run.end()
    assert (home / "postgres" / "postmaster.pid").exists()


def crashed(home: Path) -> dict[str, Any]:
    """Return a folder whose server and users were killed, with its record."""
    crash(home)
    record: dict[str, Any] = json.loads((home / "postgres" / FILE).read_text())
    return record


def as_of(home: Path, record: dict[str, Any], **changes: Any) -> None:
    """Change the record in place, so that the file keeps its inode, unlike a copy."""
    with (home / "postgres" / FILE).open("r+") as file:
        file.truncate()
        json.dump({**record, **changes}, file)


@pytest.mark.parametrize(
    ("changes", "shared", "goes_on"),
    [
        ({}, True, True),  # killed here
        ({"place": "other boot/pid:[1]"}, True, True),  # this machine was started anew
        ({"place": "other boot/pid:[1]", "host": "elsewhere"}, False, True),  # a disk of one machine, moved to another
        ({"place": "other boot/pid:[1]", "host": "elsewhere"}, True, False),
        ({"place": "other boot/pid:[1]", "machine": "another"}, True, False),  # machines may have one name
        ({"place": "", "host": "elsewhere"}, True, False),  # a system without namespaces
    ],
)
def test_a_folder_of_another_host_opens_only_if_its_server_has_certainly_ended(
    home: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str], shared: bool, goes_on: bool,
) -> None:  # fmt: skip
    record = crashed(home)
    as_of(home, {**record, "machine": record["machine"] or "some"}, **changes)
    monkeypatch.setattr(server_record, "_LOCAL", frozenset() if shared else server_record._LOCAL)
    monkeypatch.setattr(server_record, "_this_machine", lambda: (record["host"], record["machine"] or "some"))
    seen = traces(home)
    if not goes_on:
        with pytest.raises(DatabaseUnavailableError, match="whether its PostgreSQL has ended cannot be seen") as caught:
            EmbeddedServer.join(home)
        assert not caught.value.passes
        assert traces(home) == seen
        assert f"remove {home / 'postgres' / 'postmaster.pid'}" in str(caught.value)
        (home / "postgres" / "postmaster.pid").unlink()
    assert write_here(home) == "rows 2"


def test_a_folder_that_was_shut_down_properly_opens_on_any_host(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Run(home).end()
    record = json.loads((home / "postgres" / FILE).read_text())
    as_of(home, record, place="other boot/pid:[1]", host="elsewhere")
    monkeypatch.setattr(server_record, "_LOCAL", frozenset())
    assert write_here(home) == "rows 2"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "vm"}'])
def test_a_missing_or_damaged_record_is_ignored(home: Path, content: str) -> None:
    crashed(home)
    (home / "postgres" / FILE).write_text(content)
    assert ServerRecord.of(home / "postgres") is None
    assert write_here(home) == "rows 2"


def test_a_new_copy_of_a_folder_whose_server_was_killed_opens_after_the_original_was_used_again(home: Path) -> None:
    crash(home)
    copy, again = home.parent / "copy", home.parent / "again"
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    message = write_here(copy)
    assert "whose PostgreSQL ran, or was killed" in message
    assert "run `hpo studies` on the original, which ends it in order, and copy it again, or" in message
    assert write_here(home) == "rows 2"
    subprocess.run(["cp", "-a", str(home), str(again)], check=True)
    assert write_here(again) == "rows 3"


def test_a_copy_without_a_record_is_recognised_by_the_path_in_its_pid_file(home: Path) -> None:
    crashed(home)
    (home / "postgres" / FILE).unlink()
    copy = home.parent / "copy"
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns(".s.PGSQL*"))
    assert f"remove {copy}/postgres/postmaster.pid" in write_here(copy)


def test_the_lock_stays_with_the_server_and_its_last_process(home: Path) -> None:
    run, server = Run(home), postmaster(home)
    child = server.children()[0]
    assert server_record.is_locked(home / "postgres")
    child.suspend()
    server.kill()
    server.wait(10)
    assert server_record.is_locked(home / "postgres")
    child.resume()
    child.wait(20)
    run.end()
    assert write_here(home) == "rows 2"
