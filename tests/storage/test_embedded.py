from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from sqlalchemy import URL

from storage import DatabaseUnavailableError, EmbeddedServer, StudyError, open_database, open_study, stop_embedded
from storage.synced_files import exclusive

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.postgres


def query(url: URL, statement: str) -> Any:
    host, port = url.query["host"], url.query["port"]
    connection = psycopg2.connect(host=host, port=port, user=url.username, dbname=url.database)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    connection.close()
    return row[0] if row else None


def postmaster(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0]))


def is_running(home: Path) -> bool:
    return (home / "postgres" / "postmaster.pid").exists()


def join_and_look(home: Path) -> tuple[int, str]:
    server = EmbeddedServer.join(home)
    query(server.url, "SELECT 1")
    seen = postmaster(home).pid
    # Stay until all have looked: the last one to leave would stop the server that the next one looks at.
    (home / f"looked-{os.getpid()}").touch()
    wait_until(lambda: len(list(home.glob("looked-*"))) == 6)
    server.leave()
    return seen, str(server.url)


def wait_until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def client(home: Path, then: str) -> subprocess.Popen[str]:
    """Start another process that joins, reports it, and runs `then`."""
    code = f"""
    import sys, os, signal
    from pathlib import Path
    from storage import EmbeddedServer
    server = EmbeddedServer.join(Path({str(home)!r}))
    print("joined", flush=True)
    {then}
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "joined\n"
    return process


def test_six_processes_that_start_at_once_on_an_empty_folder_get_the_same_server(
    empty_home: Path, at_once: Any
) -> None:
    seen = at_once(6, join_and_look, empty_home)
    assert len(set(seen)) == 1, seen
    assert not is_running(empty_home)


def test_the_last_process_to_leave_stops_the_server_and_the_data_remain(home: Path) -> None:
    first, second = EmbeddedServer.join(home), EmbeddedServer.join(home)
    query(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.leave()
    first.leave()
    assert query(second.url, "SELECT answer FROM kept") == 42
    second.leave()
    assert not is_running(home)
    third = EmbeddedServer.join(home)
    assert query(third.url, "SELECT answer FROM kept") == 42
    third.leave()


def test_the_end_of_a_process_ends_its_use_of_the_server(home: Path) -> None:
    process = client(home, "sys.exit(0)")
    assert process.wait(30) == 0
    assert not is_running(home)


def test_a_killed_client_is_not_counted_any_more(home: Path) -> None:
    process = client(home, "sys.stdin.read()")
    process.kill()
    process.wait(30)
    assert is_running(home)  # no process was left to stop it
    server = EmbeddedServer.join(home)
    server.leave()
    assert not is_running(home)


def test_the_server_keeps_running_for_another_process(home: Path) -> None:
    process = client(home, "sys.stdin.readline()")
    EmbeddedServer.join(home).leave()
    assert is_running(home)
    process.communicate("\n", timeout=30)
    assert not is_running(home)


def test_a_killed_server_is_started_again_with_its_data(home: Path) -> None:
    server = EmbeddedServer.join(home)
    query(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    postmaster(home).kill()
    assert query(server.restart(), "SELECT answer FROM kept") == 42
    postmaster(home).kill()
    other = EmbeddedServer.join(home)
    assert query(other.url, "SELECT answer FROM kept") == 42
    other.leave()
    server.leave()


def test_a_database_in_use_restarts_a_killed_server(home: Path) -> None:
    with open_database(None, home=home) as database:
        before = database.now()
        process = postmaster(home)
        process.kill()
        wait_until(lambda: not process.is_running())
        assert database.now() > before


def test_no_empty_server_replaces_one_whose_folder_was_deleted(home: Path) -> None:
    with open_database(None, home=home) as database:
        stop_embedded(home)
        shutil.rmtree(home)
        with pytest.raises(DatabaseUnavailableError, match=r"postgres is gone, and the studies with it; start again"):
            database.now()
        assert not home.exists()
    assert not home.exists()


def test_a_pid_file_with_the_pid_of_another_program_is_recognised(home: Path) -> None:
    lines = [str(os.getpid()), str(home / "postgres"), "1", "5432", str(home / "postgres"), "", "1 1", "ready"]
    (home / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    server = EmbeddedServer.join(home)
    assert query(server.url, "SELECT 1") == 1
    server.leave()


def test_an_interrupted_creation_is_repeated(empty_home: Path) -> None:
    draft = empty_home / "postgres.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18\n")
    server = EmbeddedServer.join(empty_home)
    assert query(server.url, "SELECT 1") == 1
    assert not draft.exists()
    server.leave()


def test_the_server_listens_on_a_private_socket_and_on_no_port(home: Path) -> None:
    server = EmbeddedServer.join(home)
    assert query(server.url, "SHOW listen_addresses") == ""
    assert not [c for c in postmaster(home).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700
    assert (home / "postgres" / ".s.PGSQL.5432").stat().st_mode & 0o777 == 0o700
    assert int(query(server.url, "SHOW max_connections")) >= 200
    server.leave()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(home: Path) -> None:
    server = EmbeddedServer.join(home)
    assert os.getsid(postmaster(home).pid) != os.getsid(0)
    assert os.getpgid(postmaster(home).pid) != os.getpgid(0)
    server.leave()


def test_a_client_interrupted_by_ctrl_c_leaves(home: Path) -> None:
    process = client(home, "sys.stdin.readline()")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert not is_running(home)


@pytest.mark.parametrize("name", ["deep" * 40, "with space $HOME 'and' \"quotes\"", "ümläut, comma"])
def test_any_folder_works(short_folder: Path, furnish: Callable[[Path], Path], name: str) -> None:
    home = furnish(short_folder / name / ".hpo")
    server = EmbeddedServer.join(home)
    assert query(server.url, "SELECT 1") == 1
    sockets = Path(str(server.url.query["host"]))
    assert sockets.stat().st_mode & 0o777 == 0o700
    server.leave()
    assert not sockets.exists()


def test_a_socket_folder_of_another_user_is_refused(short_folder: Path, furnish: Callable[[Path], Path]) -> None:
    home = furnish(short_folder / ("deep" * 40))
    server = EmbeddedServer.join(home)
    sockets = Path(str(server.url.query["host"]))
    server.leave()
    sockets.symlink_to("/etc")
    try:
        with pytest.raises(DatabaseUnavailableError, match="private folder"):
            EmbeddedServer.join(home)
    finally:
        sockets.unlink()


def test_stop_ends_a_server_that_is_in_use_and_nothing_else(home: Path) -> None:
    server = EmbeddedServer.join(home)
    assert stop_embedded(home)
    assert not is_running(home)
    assert not stop_embedded(home)
    assert query(server.restart(), "SELECT 1") == 1
    server.leave()


def test_stop_without_a_server_creates_nothing(short_folder: Path) -> None:
    assert not stop_embedded(short_folder / "nothing")
    assert not (short_folder / "nothing").exists()


def test_leaving_does_not_create_a_deleted_home_again(home: Path) -> None:
    server = EmbeddedServer.join(home)
    stop_embedded(home)
    shutil.rmtree(home)
    server.leave()
    assert not home.exists()


def test_a_home_that_is_a_file_is_refused_in_one_line(short_folder: Path) -> None:
    (short_folder / "file").touch()
    with pytest.raises(DatabaseUnavailableError, match=r"file.* cannot hold .*; .*--storage") as caught:
        EmbeddedServer.join(short_folder / "file" / ".hpo")
    assert "\n" not in str(caught.value)


def test_data_of_another_version_are_refused(empty_home: Path) -> None:
    (empty_home / "postgres").mkdir(parents=True)
    (empty_home / "postgres" / "PG_VERSION").write_text("13\n")
    with pytest.raises(DatabaseUnavailableError, match="written by PostgreSQL 13, but this is 18"):
        EmbeddedServer.join(empty_home)


def test_a_server_that_cannot_start_is_reported_with_the_reason_in_one_line(home: Path) -> None:
    (home / "postgres" / "pg_hba.conf").write_text("nonsense\n")
    with pytest.raises(DatabaseUnavailableError, match=r"does not start: .*(hba|authentication)") as caught:
        EmbeddedServer.join(home)
    assert "\n" not in str(caught.value)


def test_waiting_for_a_process_that_hangs_ends(home: Path) -> None:
    with exclusive(home / "postgres.lock", timeout=1), pytest.raises(DatabaseUnavailableError, match="another process"):
        EmbeddedServer.join(home, timeout=0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize(
    ("mode", "expected"), [(0o700, "1"), (0o555, "cannot hold the embedded PostgreSQL: Permission denied")]
)
def test_an_ordinary_user_needs_nothing_but_a_writable_folder(short_folder: Path, mode: int, expected: str) -> None:
    short_folder.chmod(mode)
    os.chown(short_folder, 65534, 65534)
    code = f"""
    import os, psycopg2
    from pathlib import Path
    from storage import StorageError, open_database
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    try:
        with open_database(None, home=Path({str(short_folder)!r}) / ".hpo") as database:
            print(database.engine.connect().exec_driver_sql("SELECT 1").scalar())
    except StorageError as error:
        print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert expected in result.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may enter any folder")
def test_root_works_under_a_folder_that_only_root_may_enter_and_keeps_its_permissions(empty_home: Path) -> None:
    empty_home.parent.chmod(0o700)
    server = EmbeddedServer.join(empty_home)
    assert query(server.url, "SELECT 1") == 1
    assert postmaster(empty_home).uids().effective != 0
    assert empty_home.parent.stat().st_mode & 0o777 == 0o700
    server.leave()


def test_where_names_the_folder_of_the_embedded_server(short_folder: Path) -> None:
    with open_database(None, home=short_folder) as database:
        assert database.where == f"the PostgreSQL embedded in {short_folder}"
        database.initialise()
        with pytest.raises(StudyError, match=f"no study 'cells' in the PostgreSQL embedded in {short_folder}"):
            open_study(database, "cells")
