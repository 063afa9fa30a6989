"""Test accesses are recorded in every ledger, also under concurrency and kills, and counted per test part."""

import multiprocessing

import pytest

from hpo.bundle.access_ledger import FILE, AccessCounts, AccessLedger, read_lines
from hpo.bundle.bundle import write_bundle
from hpo.bundle.stored_metrics import new_opening, openings_of, record_opening
from hpo.errors import HpoError
from hpo.files import append_line


def new_access(test="t" * 32, model="a" * 64, data="ours"):
    return new_opening("evaluate", data, 10, test=test, model=model)


@pytest.fixture
def other(tmp_path, manifest, weights):
    write_bundle(tmp_path / "other", manifest, weights, {"test_openings": []})
    return tmp_path / "other"


def test_accesses_with_several_bundles_to_one_test_part_add_up(bundle, other, tmp_path):
    ledger = AccessLedger(tmp_path / "home")
    assert ledger.begin(bundle, new_access()) == AccessCounts(1, 1)
    assert ledger.begin(bundle, new_access()) == AccessCounts(2, 1), "the same model"
    assert AccessLedger(tmp_path / "home").begin(other, new_access(model="b" * 64)) == AccessCounts(3, 2), (
        "another bundle and process"
    )
    assert ledger.begin(other, new_access(test="u" * 32)) == AccessCounts(1, 1), "another test part"
    assert len(openings_of(bundle)) == 2
    assert len(openings_of(other)) == 4, "a bundle carries what others recorded of its test part"


def test_records_that_only_the_bundle_has_count_too(bundle, tmp_path):
    record_opening(bundle, new_access(model="b" * 64))
    assert AccessLedger(tmp_path / "home").begin(bundle, new_access()) == AccessCounts(2, 2)
    assert AccessLedger().begin(bundle, new_access()) == AccessCounts(3, 2), "without a HOME the bundle remembers"


def test_a_result_is_written_into_its_record(bundle, tmp_path):
    ledger, opening = AccessLedger(tmp_path / "home"), new_access()
    ledger.begin(bundle, opening)
    ledger.end(bundle, opening, 0.75, test={"n": 10})
    assert ledger.counts(bundle, opening) == AccessCounts(1, 1)
    (found,) = ledger.openings(bundle, opening)
    assert found["accuracy"] == openings_of(bundle)[0]["accuracy"] == 0.75


def test_accesses_of_earlier_versions_count_by_their_data(bundle, tmp_path):
    record_opening(bundle, {key: value for key, value in new_access().items() if key not in ("test", "model")})
    counts = AccessLedger(tmp_path / "home").begin(bundle, new_access())
    assert counts == AccessCounts(2, 1, unnamed=1)
    assert counts.line == "the test part was opened 2 times by now, 1 of these with a model that is not known"
    assert AccessLedger(tmp_path / "home").begin(bundle, new_access(data="theirs", test="u" * 32)) == AccessCounts(1, 1)


def test_only_accesses_with_different_models_are_warned_of():
    assert AccessCounts(1, 1).line == "the test part was opened for the first time"
    assert "always with this model" in AccessCounts(3, 1).line
    line = AccessCounts(5, 3).line
    assert line.startswith("3 different models were measured on this test part by now")
    assert "choose by validation" in line


def append_many(path, number):
    for count in range(20):
        append_line(path, f'{{"from": {number}, "count": {count}}}')


def test_no_line_is_lost_when_many_append(tmp_path):
    context = multiprocessing.get_context("fork")
    path = tmp_path / "home" / FILE
    writers = [context.Process(target=append_many, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = {(line["from"], line["count"]) for line in read_lines(path)}
    assert found == {(number, count) for number in range(4) for count in range(20)}


@pytest.mark.parametrize("torn", [b'{"date": "20', b"\xff\xfe\n", b"[]\n", b"\n"])
def test_a_torn_line_does_not_damage_others(tmp_path, torn):
    path = tmp_path / FILE
    append_line(path, '{"first": 1}')
    with path.open("ab") as file:
        file.write(torn)
    append_line(path, '{"last": 2}')
    assert list(read_lines(path)) == [{"first": 1}, {"last": 2}]


def test_a_home_that_cannot_be_written_is_reported_before_the_access(bundle, tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(HpoError, match=r"cannot be written .*--home"):
        AccessLedger(tmp_path / "home").begin(bundle, new_access())
    assert openings_of(bundle) == []


def test_a_shared_store_gets_each_record_and_its_accesses_count(bundle, tmp_path):
    class Shared:
        def __init__(self):
            self.written = []

        def write(self, opening):
            self.written.append(opening)

        def read(self, test):
            return [{**opening, "model": "c" * 64} for opening in self.written if opening["test"] == test]

    shared, opening = Shared(), new_access()
    ledger = AccessLedger(tmp_path / "home", shared)
    assert ledger.begin(bundle, opening) == AccessCounts(2, 2)
    ledger.end(bundle, opening, 0.5)
    assert [one["accuracy"] for one in shared.written] == [None, 0.5]
