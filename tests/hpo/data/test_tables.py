"""CSVs of path, label and, if wanted, split."""

import pytest

from hpo.data.sources import open_source
from hpo.data.tables import TableSource
from hpo.errors import DataError


@pytest.fixture
def write_csv(tmp_path, png):
    for seed, name in enumerate("xyz"):
        (tmp_path / f"{name}.png").write_bytes(png(seed))

    def write(text, encoding="utf-8"):
        (tmp_path / "data.csv").write_text(text, encoding)
        return tmp_path / "data.csv"

    return write


def everything(path):
    source = open_source(path)
    source.key()
    return source.listing()


def test_path_and_label(write_csv, png):
    path = write_csv("path,label\ny.png,b\nx.png, a \n")
    listing = everything(path)
    assert listing.classes == ("a", "b")
    assert [(r.name, r.label, r.given) for r in listing.records] == [("y.png", 1, None), ("x.png", 0, None)]
    with TableSource(path).reads() as reads:
        assert [read() for read in reads] == [png(1), png(0)]


def test_split_other_columns_and_byte_order_mark(write_csv):
    text = "id,Split,Label,Path\n1,train,a,x.png\n2,Valid,b,y.png\n3,test,a,z.png\n"
    listing = everything(write_csv(text, "utf-8-sig"))
    assert [r.given for r in listing.records] == ["train", "val", "test"]


def test_key_changes_with_an_image(write_csv, tmp_path, png):
    path = write_csv("path,label\nx.png,a\n")
    key = TableSource(path).key()
    assert TableSource(path).key() == key
    (tmp_path / "x.png").write_bytes(png(7) + b"longer")
    assert TableSource(path).key() != key


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "has the columns none, but must have path and label: add path and label"),
        ("path,class\nx.png,a\n", "has the columns path, class, but must have path and label: add label"),
        ("path,label\n", "has a header but no rows"),
        ("path,label\nx.png,a\nmissing.png,a\n", r"missing\.png, named by .*data\.csv, is not a file beside it"),
        ("path,label\nx.png,\n", "line 2: label is empty"),
        ("path,label\n,a\n", "line 2: path is empty"),
        ("path,label\nx.png\n", "line 2: label is empty"),
        ("path,label,split\nx.png,a,train\ny.png,a,hold-out\n", "line 3: split is 'hold-out', but must be train, val"),
        ("path,label,split\nx.png,a,\n", "line 2: split is '', but must be train, val"),
        ("path,label\nx.png,a\n\0", "is not a file beside it|is not a CSV|label is empty"),
    ],
)
def test_faults_are_said_in_one_line(write_csv, text, rule):
    with pytest.raises(DataError, match=rule) as caught:
        everything(write_csv(text))
    assert "\n" not in str(caught.value)


def test_another_encoding_is_refused(write_csv):
    with pytest.raises(DataError, match="is not a CSV in UTF-8"):
        everything(write_csv("path,label\nx.png,café\n", "latin-1"))
