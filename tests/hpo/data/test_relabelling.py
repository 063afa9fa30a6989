"""Classes of other data by the names of a model: said by the user, never guessed."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.data import open_whole
from hpo.data.relabelling import check_names, missing_line, read_renaming
from hpo.errors import DataError, UsageError

KNOWN = ("basophil", "monocyte", "neutrophil")


def test_renamings_are_read():
    assert read_renaming(["NEU=neutrophil", "mixed=", "a=b=neutrophil", " x = monocyte "]) == {
        "NEU": "neutrophil", "mixed": "", "a=b": "neutrophil", "x": "monocyte",
    }  # fmt: skip
    assert read_renaming([]) == {}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["neutrophil"], "--map is 'neutrophil', but must be THEIRS=OURS"),
        (["=neutrophil"], "but must be THEIRS=OURS"),
        (["a=b", "a=c"], "--map names the class 'a' twice"),
    ],
)
def test_other_texts_are_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        read_renaming(texts)


def test_other_data_are_opened_by_the_names_of_the_model(write_classes, tmp_path):
    data = write_classes({"NEU": 3, "mono": 2, "junk": 4, "basophil": 1}, under="data")
    renamed = {"NEU": "neutrophil", "mono": "monocyte", "junk": ""}
    whole = open_whole(data, image_size=16, cache=tmp_path / "cache", classes=KNOWN, renamed=renamed)
    assert np.bincount(whole.part.labels, minlength=3).tolist() == [1, 2, 3]
    assert not [name for name in whole.part.names if "junk" in name]
    assert {line for line in whole.notes if "--map" in line} == {
        "class 'NEU' is taken as 'neutrophil', as --map says: 3 images",
        "class 'mono' is taken as 'monocyte', as --map says: 2 images",
        "class 'junk' is left out, as --map says: 4 images",
    }


def test_two_classes_may_become_one(write_classes, tmp_path):
    data = write_classes({"band": 2, "segmented": 3}, under="data")
    renamed = dict.fromkeys(("band", "segmented"), "neutrophil")
    whole = open_whole(data, image_size=16, cache=tmp_path / "cache", classes=KNOWN, renamed=renamed)
    assert whole.part.labels.tolist() == [2] * 5


@pytest.mark.parametrize(
    ("used", "renamed", "message"),
    [
        (["NEU"], {}, "class 'NEU' of lab is unknown to the model, which knows basophil, monocyte, neutrophil: rename "
         "or remove it, or name its class by --map NEU=CLASS, where no CLASS leaves its images out"),
        (["NEU"], {"neu": "neutrophil"}, "--map names the class 'neu', but lab has NEU, basophil: name one of these"),
        (["NEU"], {"NEU": "neutro"}, "--map gives 'NEU' the class 'neutro', but the model knows basophil, monocyte"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_answered_with_the_right_ones(used, renamed, message):
    with pytest.raises(DataError, match=message):
        check_names(["NEU", "basophil"], used, KNOWN, renamed, "lab")


def test_to_leave_out_everything_is_refused(write_classes, tmp_path):
    data = write_classes({"a": 2, "b": 2}, under="data")
    with pytest.raises(DataError, match="--map leaves out all images"):
        open_whole(data, image_size=16, cache=tmp_path / "cache", classes=KNOWN, renamed={"a": "", "b": ""})


def test_missing_classes_have_one_line():
    line = missing_line(KNOWN, [0, 5, 0])
    assert line.startswith("no image is of class basophil, neutrophil: the figures are of the other 1, ")
    assert missing_line(KNOWN, [1, 1, 1]) == ""
