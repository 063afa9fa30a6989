from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import UsageError
from hpo.experiments.model_refs import BundleRef, PresetRef, TrialRef, read_model_ref, read_model_refs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quick", PresetRef("quick", "quick")),
        ("spaces/mine.yaml", PresetRef("spaces/mine.yaml", "spaces/mine.yaml")),
        (
            "quick:epochs=3, phase1.learning_rate=1e-3",
            PresetRef("quick:epochs=3, phase1.learning_rate=1e-3", "quick", ("epochs=3", "phase1.learning_rate=1e-3")),
        ),
        ("cells#12", TrialRef("cells#12", "cells", 12)),
        ("a#b#0", TrialRef("a#b#0", "a#b", 0)),
        ("s3://bucket/best/", BundleRef("s3://bucket/best", "s3://bucket/best/")),
    ],
)
def test_a_text_names_a_model(text: str, expected: object) -> None:
    assert read_model_ref(text) == expected


def test_a_folder_with_a_bundle_takes_precedence_over_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick").mkdir()
    assert isinstance(read_model_ref("quick"), PresetRef)
    Path("quick/config.json").write_text("{}")
    assert read_model_ref("quick") == BundleRef("quick", Path("quick"))


def test_bundles_of_one_name_are_labelled_by_their_paths(tmp_path: Path) -> None:
    for parent in "ab":
        (tmp_path / parent / "best").mkdir(parents=True)
    found = read_model_refs([str(tmp_path / "a" / "best"), str(tmp_path / "b" / "best"), "quick"])
    assert [one.label for one in found] == [str(tmp_path / "a" / "best"), str(tmp_path / "b" / "best"), "quick"]


def test_a_model_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"quick is named 2 times; .* quick:epochs=8"):
        read_model_refs(["quick", "standard", "quick"])


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(UsageError, match="'' names nothing"):
        read_model_ref("")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tiny#x", "tiny#x: a trial must be STUDY#NUMBER, as tiny#7"),
        ("#3", "#3: a trial must be STUDY#NUMBER, as cells#7"),
        ("nodir/", "nodir/: there is no such bundle"),
        ("no/dir", "no/dir: there is no such bundle"),
        (
            "quik",
            "quik is neither a preset nor the folder of a bundle; did you mean quick? (a trial is",
        ),
        ("xyz:epochs=3", "xyz is neither a preset nor the folder of a bundle; `hpo spaces` lists the presets (a trial"),
        ("quick:epochs", "quick:epochs: 'epochs' after the colon must be KEY=VALUE, as in quick:epochs=8"),
        ("quick:", "quick:: '' after the colon must be KEY=VALUE"),
        ("quick:epochs=3,dropout", "quick:epochs=3,dropout: dropout must be KEY=VALUE"),
    ],
)
def test_malformed_references_are_refused_with_the_rule(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_model_ref(text)
    assert str(raised.value).startswith(reason)


def test_a_space_in_a_file_may_have_any_name() -> None:
    assert read_model_ref("odd#1:a/b.yaml") == PresetRef("odd#1:a/b.yaml", "odd#1:a/b.yaml")
