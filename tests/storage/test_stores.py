"""The folder of a study belongs to one study in one database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from storage import (
    Database,
    StorageError,
    StudyError,
    claim_files,
    open_database,
    open_store,
    refuse_foreign_files,
    remove_stray_study,
    stray_studies,
)
from tests.conftest import TcpServer

pytestmark = pytest.mark.postgres
STUDY = "cells-0123abcd"


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return request.getfixturevalue("s3_root") if request.param == "s3" else tmp_path / "artifacts"


@pytest.fixture
def restored(other_database_url: str) -> Iterator[Database]:
    """Another database of the same server, such as a dump restored beside its original."""
    with open_database(other_database_url, home=Path("unused")) as database:
        yield database


def test_the_first_database_keeps_the_folder_and_another_is_refused_with_the_way_out(
    database: Database, restored: Database, root: Path | str
) -> None:
    assert not refuse_foreign_files(database, root, STUDY)
    for _ in range(2):
        claim_files(database, root, STUDY)
    assert refuse_foreign_files(database, root, STUDY)
    store = open_store(root, STUDY)
    store.write(0, "best", {"model": b"1"}, {})
    for look in (claim_files, refuse_foreign_files):
        with pytest.raises(StudyError, match=r"belong to a study in another database.*remove .*owner\.json") as caught:
            look(restored, root, STUDY)
        assert "\n" not in str(caught.value)
    assert store.trials() == {0}
    claim_files(restored, root, "other-0123abcd")


def test_a_moved_study_continues_once_the_record_of_its_database_is_removed(
    database: Database, restored: Database, tmp_path: Path
) -> None:
    claim_files(database, tmp_path, STUDY)
    (tmp_path / STUDY / "owner.json").unlink()
    claim_files(restored, tmp_path, STUDY)
    with pytest.raises(StudyError):
        claim_files(database, tmp_path, STUDY)


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b"\xff"])
def test_a_damaged_record_is_not_reported_as_another_databases(database: Database, tmp_path: Path, note: bytes) -> None:
    claim_files(database, tmp_path, STUDY)
    (tmp_path / STUDY / "owner.json").write_bytes(note)
    with pytest.raises(StudyError, match=r"owner\.json is damaged.*remove that file") as caught:
        claim_files(database, tmp_path, STUDY)
    assert "another database" not in str(caught.value)
    (tmp_path / STUDY / "owner.json").unlink()
    claim_files(database, tmp_path, STUDY)


def test_an_unreadable_record_is_reported_with_the_cause(database: Database, tmp_path: Path) -> None:
    (tmp_path / STUDY / "owner.json").mkdir(parents=True)
    with pytest.raises(
        StorageError, match=r"owner\.json cannot be read: Is a directory; let this user read it"
    ) as caught:
        claim_files(database, tmp_path, STUDY)
    assert not isinstance(caught.value, StudyError)


def test_on_a_full_disk_nothing_is_recorded_and_the_next_worker_does_it(database: Database, tiny_disk: Path) -> None:
    filler = tiny_disk / "filler"
    with suppress(OSError):
        filler.write_bytes(bytes(2**21))
    claim_files(database, tiny_disk, STUDY)
    assert not refuse_foreign_files(database, tiny_disk, STUDY)
    filler.unlink()
    claim_files(database, tiny_disk, STUDY)
    assert refuse_foreign_files(database, tiny_disk, STUDY)


def test_the_folder_of_a_deleted_study_is_removed_with_its_record(database: Database, tmp_path: Path) -> None:
    claim_files(database, tmp_path, STUDY)
    open_store(tmp_path, STUDY).write(0, "best", {"model": b"1"}, {})
    ((folder, _),) = stray_studies(tmp_path, [])
    remove_stray_study(tmp_path, folder)
    assert list(tmp_path.iterdir()) == []


def test_an_unprivileged_user_can_read_the_identity_and_databases_differ(
    tcp_server: TcpServer, database: Database, restored: Database
) -> None:
    tcp_server.administer(
        "DROP ROLE IF EXISTS identity_reader", "CREATE ROLE identity_reader LOGIN PASSWORD 'Secret-1'"
    )
    identities = {database.identity(), restored.identity()}
    for user in ("admin", "identity_reader"):
        with open_database(tcp_server.url(user=user), home=Path("unused")) as other:
            identities.add(other.identity())
    assert len(identities) == 3
