"""CSVs with path, label and optionally split."""

import pytest

from hpo.data.dataset import LeftOut
from hpo.data.opening import open_source
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
def test_faults_are_reported_in_one_line(write_csv, text, rule):
    with pytest.raises(DataError, match=rule) as caught:
        everything(write_csv(text))
    assert "\n" not in str(caught.value)


def test_a_quote_that_is_not_closed_is_reported(write_csv):
    rows = "x.png,a\n" * 30_000
    with pytest.raises(DataError, match="more than 131,072 letters, which is often a quote that is not closed"):
        everything(write_csv(f'path,label\n"x.png,a\n{rows}'))


def test_another_encoding_is_refused(write_csv):
    with pytest.raises(DataError, match="is not a CSV in UTF-8"):
        everything(write_csv("path,label\nx.png,café\n", "latin-1"))


TABLE = "path,label\nx.png,a\ny.png,b\nz.png,a\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_delimiters_and_encodings(write_csv, delimiter, encoding):
    listing = everything(write_csv(TABLE.replace(",", delimiter), encoding))
    assert [(r.name, r.label) for r in listing.records] == [("x.png", 0), ("y.png", 1), ("z.png", 0)]
    assert (listing.notes, listing.left_out) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "\n\n" + TABLE,
        TABLE.replace("\n", "\n\n"),
        TABLE + ",\n,,\n",
        TABLE.replace("\n", ",\n"),
        "sep=,\n" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("x.png,a", '"x.png","a"'),
        TABLE.replace("label", " LABEL "),
    ],
)
def test_blank_lines_and_spreadsheets(write_csv, text):
    assert [r.name for r in everything(write_csv(text)).records] == ["x.png", "y.png", "z.png"]
    assert everything(write_csv(text)).left_out == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("path,label,Label\nx.png,a,b\n", "has the columns label and Label, but must have one label: remove or rename"),
        ("path,Path ,label\nx.png,y.png,b\n", "has the columns path and Path, but must have one path"),
        ("path,label,split,SPLIT\nx.png,a,train,val\n", "has the columns split and SPLIT, but must have one split"),
        ("file,target\nx.png,a\n", "add path and label, or rename file to path or target to label"),
        ("path,label\nx.png,a,b\n", "line 2: the row has 3 cells, but the header names 2: put a text that holds ','"),
        ("\npath,label\nx.png,\n", "line 3: label is empty"),
        ("path,label\nx.png,a\ny.png,b\n./x.png,b\n", "names x.png as a in line 2 and as b in line 4: leave one"),
        ("path,label,split\nx.png,a,train\nx.png,a,test\n", "as a of train in line 2 and as a of test in line 3"),
        ("path,label,split\nx.png,a,train\ny.png,a,eval\n", "line 3: split is 'eval', but must be train, val or test"),
        ("path,label\nhttps://example.org/x.png,a\n", "is not a file beside it"),
        ("path,label\n.,a\n", r"\., named by .* is not a file beside it"),
        ("path,label\nself.png,a\n", r"self\.png, named by .* cannot be opened \(Too many levels of symbolic links\)"),
    ],
)
def test_an_ambiguous_table_is_refused(write_csv, tmp_path, text, rule):
    (tmp_path / "self.png").symlink_to("self.png")
    with pytest.raises(DataError, match=rule) as caught:
        everything(write_csv(text))
    assert "\n" not in str(caught.value)


def test_names_of_parts_are_those_of_folders(write_csv):
    text = "path,label,split\nx.png,a,Training\ny.png,b,dev\nz.png,a,TESTING\n"
    assert [r.given for r in everything(write_csv(text)).records] == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("values", "notes"),
    [
        (("learn", "dev", "test"), ("parts: dev is val, learn is train, test is test",)),
        (("train", "val", "valid"), ("parts: train is train, val is val, valid is val",)),
        (("Train", "train", "Valid"), ()),
    ],
)
def test_parts_under_other_names_are_noted(write_csv, values, notes):
    rows = "".join(f"{name}.png,{label},{value}\n" for name, label, value in zip("xyz", "aba", values, strict=True))
    assert everything(write_csv(f"path,label,split\n{rows}")).notes == notes


@pytest.mark.parametrize(
    "column", ["is_valid", "fold", "set", "subset", "Partition", "phase", "dataset", "train_test", "is_test", "usage"]
)
def test_a_column_that_looks_like_a_split_is_named(write_csv, column):
    listing = everything(write_csv(f"path,label,{column}\nx.png,a,1\ny.png,b,0\n"))
    assert listing.left_out == (LeftOut("column", 1, (column,)),)
    assert listing.notes[0].startswith(f"column {column} looks like a split, but is not read")


def test_a_column_with_names_of_parts_in_it_looks_like_a_split(write_csv):
    listing = everything(write_csv("path,label,which\nx.png,a,Train\ny.png,b,valid\nz.png,b,test\n"))
    assert listing.notes[0].startswith("column which looks like a split")


@pytest.mark.parametrize("column", ["patient", "patient_id", "PatientID", "group", "subject", "slide", "Subjects"])
def test_a_column_that_looks_like_a_group_is_named(write_csv, column):
    listing = everything(write_csv(f"path,label,{column},note\nx.png,a,1,\ny.png,b,0,\n"))
    assert listing.left_out == (LeftOut("column", 2, (column, "note")),)
    assert [line.split(",")[0] for line in listing.notes] == [f"column {column} looks like a group"]


def test_a_second_label_column_is_named(write_csv):
    listing = everything(write_csv("path,label,class\nx.png,a,c\ny.png,b,c\n"))
    assert (listing.classes, listing.left_out) == (("a", "b"), (LeftOut("column", 1, ("class",)),))


def test_labels_that_may_be_one_class_are_noted(write_csv):
    listing = everything(write_csv("path,label\nx.png,1\ny.png,1.0\nz.png,nan\n"))
    assert listing.classes == ("1", "1.0", "nan")
    assert [line.split(":")[0] for line in listing.notes] == [
        "classes '1', '1.0' are one number",
        "class 'nan' looks like a missing label",
    ]


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("dog", "dog."), ("red fox", "red_fox"), ("A", "\uff21")])
def test_labels_that_differ_in_form_only_are_noted(write_csv, pair):
    listing = everything(write_csv(f"path,label\nx.png,{pair[0]}\ny.png,{pair[1]}\n"))
    assert len(listing.classes) == 2
    assert "differ in case, blanks or signs only" in listing.notes[0]


def test_labels_in_two_unicode_forms_are_one_class_and_noted(write_csv):
    listing = everything(write_csv("path,label\nx.png,caf\u00e9\ny.png,cafe\u0301\nz.png,b\n"))
    assert listing.classes == ("b", "caf\u00e9")
    assert "are read as one class" in listing.notes[0]


def test_an_image_named_by_two_equal_rows_is_noted(write_csv):
    listing = everything(write_csv("path,label\nx.png,a\ny.png,b\nx.png,a\n"))
    assert len(listing.records) == 3
    assert listing.notes == ("1 image is named by more than one row: x.png (lines 2, 4)",)


def test_paths_of_other_systems(write_csv, tmp_path, png):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "cafe\u0301.png").write_bytes(png(5))
    listing = everything(write_csv(f"path,label\nsub\\caf\u00e9.png,a\n{tmp_path}/x.png,b\n"))
    assert len(listing.records) == 2
    with TableSource(tmp_path / "data.csv").reads() as reads:
        assert [read() for read in reads] == [png(5), png(0)]
