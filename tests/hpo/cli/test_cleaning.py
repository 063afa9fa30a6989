"""Decisions on single images for a study: which options agree with those that it was made with."""

import pytest

from hpo.cli.cleaning import Cleaning
from hpo.data.changes import DataChanges
from hpo.data.findings import Finding, Findings
from hpo.errors import DataError, UsageError


@pytest.fixture
def data(tmp_path):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(b"")
    return tmp_path / "data"


def options(findings=None, clean=False, fix_leaks=False):
    return {"findings": findings, "clean": clean, "fix_leaks": fix_leaks}


def table(tmp_path, text):
    path = tmp_path / "my table.csv"
    path.write_text("file,finding,action,mine\n" + text)
    return path


def test_a_table_is_compared_with_the_listing(data, tmp_path, capsys):
    cleaning = Cleaning.from_options(
        data, options(table(tmp_path, "cat/0.png,odd,drop,\ndog/0.png,label,relabel:cat,\n"))
    )
    assert cleaning
    assert cleaning.findings is not None
    changes = cleaning.findings.changes()
    assert (changes.drops, changes.relabels) == ({"cat/0.png": "odd"}, {"dog/0.png": "cat"})
    assert changes.source == cleaning.source == "my table.csv"
    assert "my table.csv: column mine is not read" in capsys.readouterr().err
    assert not Cleaning.from_options(data, options())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat/9.png,odd,drop,\n", "line 2: file 'cat/9.png' is not in the data set"),
        ("cat/0.png,label,relabel:cow,\n", "line 2: class 'cow' is unknown, the data set has cat, dog"),
        ("cat/0.png,odd,drop,\ncat/0.png,label,relabel:dog,\n", "line 3: the action for cat/0.png is relabel:dog"),
    ],
)
def test_a_fault_of_the_table_is_found_before_an_image_is_decoded(data, tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        Cleaning.from_options(data, options(table(tmp_path, text)))


def test_a_table_and_clean_contradict_each_other(data, tmp_path):
    with pytest.raises(UsageError, match=r"--findings .* and --clean contradict each other"):
        Cleaning.from_options(data, options(table(tmp_path, ""), clean=True))


def test_options_agree_with_those_that_a_study_was_made_with():
    findings = Findings((Finding("a", "odd", "", 1, "drop", ""),), source="here/two words.csv")
    renamed = Findings(findings.rows, source="other.csv")
    edited = Findings((Finding("a", "odd", "", 1, "keep", ""),), source="here/two words.csv")
    stored = findings.changes()
    assert Cleaning(findings).is_of(stored)
    assert Cleaning(renamed).is_of(stored)
    assert not Cleaning(edited).is_of(stored)
    assert not Cleaning(clean=True).is_of(stored)
    assert not Cleaning(findings, fix_leaks=True).is_of(stored)
    assert Cleaning(clean=True).is_of(DataChanges(source="--clean", digest="1"))
    assert not Cleaning(clean=True).is_of(DataChanges())
    assert not Cleaning(clean=True).is_of(DataChanges(source="--clean --fix-leaks"))
    assert Cleaning(fix_leaks=True).is_of(DataChanges(source="--fix-leaks"))
