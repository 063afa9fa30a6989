"""A ledger with a database records there too; a database that is away is reported once and left out."""

from contextlib import contextmanager

from hpo.bundle.access_ledger import AccessCounts, AccessLedger
from hpo.bundle.stored_metrics import new_opening
from hpo.delivery.database_accesses import DatabaseAccesses
from storage import StorageError


def test_a_database_that_is_away_is_reported_once_and_left_out(bundle, tmp_path):
    @contextmanager
    def away():
        raise StorageError("no answer")
        yield

    lines = []
    ledger = AccessLedger(tmp_path / "home", DatabaseAccesses(away, lines.append))
    opening = new_opening("evaluate", "ours", 10, test="t" * 32, model="a" * 64)
    assert ledger.begin(bundle, opening) == AccessCounts(1, 1)
    ledger.end(bundle, opening, 0.5)
    assert lines == ["accesses to the test part are counted without the database: no answer"]
