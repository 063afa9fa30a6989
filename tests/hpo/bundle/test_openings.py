"""The record of looks at test parts: shared, complete under concurrency and kills, and what many models are worth."""

import multiprocessing
from contextlib import contextmanager

import pytest

from hpo.bundle.bundle import new_opening, openings_of, record_opening, write_bundle
from hpo.bundle.openings import FILE, Ledger, Looks, read_lines
from hpo.errors import HpoError
from hpo.files import append_line
from storage import StorageError


def look(test="t" * 32, model="a" * 64, data="ours"):
    return new_opening("evaluate", data, 10, test=test, model=model)


@pytest.fixture
def other(tmp_path, manifest, weights):
    write_bundle(tmp_path / "other", manifest, weights, {"test_openings": []})
    return tmp_path / "other"


def test_looks_with_several_bundles_at_one_test_part_add_up(bundle, other, tmp_path):
    ledger = Ledger(tmp_path / "home")
    assert ledger.begin(bundle, look()) == Looks(1, 1)
    assert ledger.begin(bundle, look()) == Looks(2, 1), "the same model"
    assert Ledger(tmp_path / "home").begin(other, look(model="b" * 64)) == Looks(3, 2), "another bundle and process"
    assert ledger.begin(other, look(test="u" * 32)) == Looks(1, 1), "another test part"
    assert len(openings_of(bundle)) == len(openings_of(other)) == 2


def test_what_only_the_bundle_knows_counts_too(bundle, tmp_path):
    record_opening(bundle, look(model="b" * 64))
    assert Ledger(tmp_path / "home").begin(bundle, look()) == Looks(2, 2)
    assert Ledger().begin(bundle, look()) == Looks(3, 2), "without a HOME the bundle remembers"


def test_a_result_is_part_of_its_look(bundle, tmp_path):
    ledger, opening = Ledger(tmp_path / "home"), look()
    ledger.begin(bundle, opening)
    ledger.end(bundle, opening, 0.75, test={"n": 10})
    assert ledger.looks(bundle, opening) == Looks(1, 1)
    (found,) = ledger.openings(bundle, opening)
    assert found["accuracy"] == openings_of(bundle)[0]["accuracy"] == 0.75


def test_looks_of_earlier_versions_count_by_their_data(bundle, tmp_path):
    record_opening(bundle, {key: value for key, value in look().items() if key not in ("test", "model")})
    looks = Ledger(tmp_path / "home").begin(bundle, look())
    assert looks == Looks(2, 1, unnamed=1)
    assert looks.line == "the test part was opened 2 times by now, 1 of these with a model that is not known"
    assert Ledger(tmp_path / "home").begin(bundle, look(data="theirs", test="u" * 32)) == Looks(1, 1)


def test_only_different_models_are_warned_of():
    assert Looks(1, 1).line == "the test part was opened for the first time"
    assert "always with this model" in Looks(3, 1).line
    told = Looks(5, 3).line
    assert told.startswith("3 different models were measured on this test part by now")
    assert "choose by validation" in told


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
def test_a_torn_line_takes_no_other_with_it(tmp_path, torn):
    path = tmp_path / FILE
    append_line(path, '{"first": 1}')
    with path.open("ab") as file:
        file.write(torn)
    append_line(path, '{"last": 2}')
    assert list(read_lines(path)) == [{"first": 1}, {"last": 2}]


def test_a_home_that_cannot_be_written_is_told_before_the_look(bundle, tmp_path):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(HpoError, match=r"cannot be written .*--home"):
        Ledger(tmp_path / "home").begin(bundle, look())
    assert openings_of(bundle) == []


def test_a_database_that_is_away_is_told_of_once_and_left_out(bundle, tmp_path):
    @contextmanager
    def away():
        raise StorageError("no answer")
        yield

    said = []
    ledger, opening = Ledger(tmp_path / "home", away, said.append), look()
    assert ledger.begin(bundle, opening) == Looks(1, 1)
    ledger.end(bundle, opening, 0.5)
    assert said == ["looks at the test part are counted without the database: no answer"]
