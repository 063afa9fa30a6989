"""Decisions on single images for a study: which options agree with those that it was made with."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpo.cli.cleaning import Cleaning, decide, kept_labels
from hpo.cli.run import init_command, make_plan
from hpo.data.changes import DataChanges
from hpo.data.findings import Finding, Findings
from hpo.errors import DataError, UsageError
from hpo.inspection.inspect_data import InspectionOptions
from tests.hpo.pictures import blobs


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


@pytest.fixture
def plan(data, tmp_path):
    """Return a plan whose data have pictures: those of the folder `data`, with a copy in val of one of train."""
    folder = tmp_path / "parts"
    for number in range(20):
        path = folder / ("val" if number < 4 else "train") / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        blobs(number).save(path)
    blobs(6).save(folder / "val/cat/copy.png")
    words = [str(folder), "--study", "s", "--space", "quick", "--backbone", "test_resnet", "--set", "pretrained=false"]
    given = init_command.make_context("init", words).params
    return make_plan(**{name: value for name, value in given.items() if name not in ("trials", "timeout")})


def test_what_changes_nothing_is_said(plan, tmp_path, capsys):
    keep = table(tmp_path, "train/cat/6.png,odd,keep,\n")
    changes = decide(plan, Cleaning.from_options(plan.data, options(keep)), tmp_path)
    assert not changes
    assert "my table.csv: its row says keep, so no image is left out and no label changed" in capsys.readouterr().err


def test_leaks_are_fixed_among_the_images_that_stay(plan, tmp_path, capsys):
    assert decide(plan, Cleaning(fix_leaks=True), tmp_path).parts == {"train/cat/6.png": "val"}
    drop = table(tmp_path, "val/cat/copy.png,copy,drop,\n")
    changes = decide(plan, Cleaning.from_options(plan.data, options(drop, fix_leaks=True)), tmp_path)
    assert (changes.drops, changes.parts) == ({"val/cat/copy.png": "copy"}, {})
    assert (
        "--fix-leaks: no image is moved, no image that stays lies in two of the given parts" in capsys.readouterr().err
    )
    cats = replace(plan, data=plan.data / "train")
    assert not decide(cats, Cleaning(fix_leaks=True), tmp_path)
    assert "--fix-leaks: no image is moved, DATA brings no parts" in capsys.readouterr().err


def test_labels_that_are_probably_wrong_and_stay_are_counted():
    names = ("train/cat/0.png", "val/cat/1.png", "val/dog/2.png", "test/dog/3.png")
    rows = tuple(Finding(name, "label", "", 0.9, "keep", "") for name in names)
    data = SimpleNamespace(names=names, given=("train", "val", "val", "test"), path=Path("cells"))
    found = SimpleNamespace(
        findings=Findings(rows), data=data, options=InspectionOptions(backbone="resnet18"), unfetched=False
    )
    see = "hpo data cells --backbone resnet18 --out findings.csv to decide"
    four = "--clean: 4 labels that are probably wrong were kept (2 in val, 1 in test)"
    assert kept_labels(found, DataChanges()) == f"{four}: {see}"
    dropped = DataChanges(drops={"val/cat/1.png": "copy", "test/dog/3.png": "copy"}, parts={"val/dog/2.png": "train"})
    two = "--clean: 2 labels that are probably wrong were kept"
    assert kept_labels(found, dropped) == f"{two}: {see}"
    data.given, found.findings = None, Findings(rows[1:2])
    assert kept_labels(found, DataChanges()) == f"--clean: 1 label that is probably wrong was kept: {see}"
    assert kept_labels(found, DataChanges(drops={"val/cat/1.png": "copy"})) == ""


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
    odd = Findings(findings.rows, source="a --clean b.csv")
    assert Cleaning(odd).is_of(replace(stored, source=Cleaning(odd).source))
