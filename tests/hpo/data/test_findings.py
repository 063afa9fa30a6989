"""Findings: the table is read back as it was written, also after a spreadsheet; faults are one line with its number."""

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.data.changes import KINDS, DataChanges, groups_of_files
from hpo.data.findings import COLUMNS, Finding, Findings, read_findings
from hpo.errors import DataError, UsageError

names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: text == text.strip() and not text.startswith("\ufeff")
)
files = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), min_size=1, max_size=12).filter(
    lambda text: text.strip() and not text.startswith("\ufeff")
)
findings = st.builds(
    Finding,
    file=files,
    finding=st.sampled_from(KINDS),
    group=names | st.just(""),
    score=st.integers(0, 10_000).map(lambda score: score / 10_000),
    action=st.sampled_from(["keep", "drop"]) | names.map(lambda name: f"relabel:{name}"),
    reason=names,
)


def a_finding(file="a/1.png", finding="outlier", action="drop", group="") -> Finding:
    return Finding(file, finding, group, 0.9, action, "it is far from all others")


def table(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "findings.csv"
    path.write_bytes(text.encode(encoding))
    return path


@given(rows=st.lists(findings, max_size=5))
def test_a_table_is_read_as_it_was_written(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("findings") / "findings.csv"
    Findings(tuple(rows)).write_csv(path)
    assert read_findings(path).rows == tuple(rows)


@pytest.mark.parametrize(
    "name", [" a.png", "a.png ", "a\rb.png", "a\nb.png", "a\tb.png", "a,b;c.png", 'a"b.png', "a\x0bb"]
)
def test_odd_names_of_files_are_read_back(tmp_path, name):
    path = tmp_path / "findings.csv"
    Findings((a_finding(name), a_finding("other.png"))).write_csv(path)
    assert [row.file for row in read_findings(path).check(["a.png", name, "other.png"], []).rows] == [name, "other.png"]


def test_a_row_that_a_spreadsheet_took_for_one_cell_is_taken_apart(tmp_path):
    """A spreadsheet that expects semicolons shows a table with commas in one column, and saves it like this."""
    Findings((a_finding(), Finding("a/2.png", "copy", "c", 0.5, "keep", 'like "1", but turned'))).write_csv(
        tmp_path / "findings.csv"
    )
    plain = (tmp_path / "findings.csv").read_text().splitlines()
    saved = [line if '"' not in line else '"' + line.replace('"', '""') + '"' for line in plain]
    assert saved != plain
    found = read_findings(table(tmp_path, "\r\n".join(saved), "utf-8-sig"))
    assert found.rows[1].reason == 'like "1", but turned'
    assert [row.file for row in found.rows] == ["a/1.png", "a/2.png"]


def test_rows_that_say_the_same_twice_are_one(tmp_path):
    found = read_findings(table(tmp_path, "file,finding,action\na,odd,drop\na,odd,drop\na,copy,keep\n"))
    assert found.changes().drops == {"a": "odd"}
    assert found.counts()["odd"]["drop"] == 1


def test_what_is_no_table_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"missing.csv does not exist: give the path of a CSV$"):
        read_findings(tmp_path / "missing.csv")
    with pytest.raises(DataError, match="is a folder, but must be a CSV"):
        read_findings(tmp_path)
    for content, message in (
        (b"PK\x03\x04\x00", "is a workbook or another zip, .* save it as CSV"),
        ("file,finding,action\nü.png,odd,drop".encode("cp1252"), "is not a CSV in UTF-8"),
        (b"<!doctype html>" + b"<p>x" * 5000, "has the columns <!doctype html>.{0,60}, but a findings file has"),
        (b"\xff\xfe\x00", "is not a CSV in UTF-8"),
    ):
        (tmp_path / "findings.csv").write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            read_findings(tmp_path / "findings.csv")
        assert "\n" not in str(error.value)


def test_columns_and_formulas(tmp_path):
    path = tmp_path / "findings.csv"
    Findings((a_finding("=cmd.png"), a_finding("'quoted.png"))).write_csv(path)
    header, *lines = path.read_text().splitlines()
    assert header == ",".join(COLUMNS) == "file,finding,group,score,action,reason"
    assert [line.partition(",")[0] for line in lines] == ["'=cmd.png", "''quoted.png"]
    known = ["=cmd.png", "'quoted.png"]
    assert [row.file for row in read_findings(path).check(known, []).rows] == known
    by_hand = table(tmp_path, "file,finding,action\n'quoted.png,odd,drop\n=cmd.png,odd,keep\n")
    assert {row.file for row in read_findings(by_hand).check(known, []).rows} == set(known)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_saves_is_read(tmp_path, encoding, delimiter):
    lines = [
        ["Action", "file", "mine", "finding", "score"],
        [" Drop ", "ü/1.png", "x", "OUTLIER", "0.5"],
        ["", "", "", "", ""],
        ["relabel: b", "a\\2.png", "", "label", ""],
    ]
    text = "\r\n".join(delimiter.join(cells) for cells in lines)
    found = read_findings(table(tmp_path, text, encoding)).check(["u\u0308/1.png", "a/2.png"], ["a", "b"])
    assert [(row.file, row.finding, row.action) for row in found.rows] == [
        ("u\u0308/1.png", "outlier", "drop"),
        ("a/2.png", "label", "relabel:b"),
    ]
    assert found.notes == ("findings.csv: column mine is not read",)
    assert found.lines == (2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,action\na,drop\n", "add finding"),
        ("file,file,finding,action\n", "two columns file"),
        ("", "has the columns none"),
        ("file,finding,action\na,outlier,drop\n\nb,outlier,remove\n", "line 4: action is 'remove', but must be keep"),
        ("file,finding,action\na,junk,drop\n", "line 2: finding is 'junk', but must be one of copy, conflict"),
        ("file,finding,action\n,odd,drop\n", "line 2: file is empty"),
        ("file,finding,action\na,odd,relabel:\n", "line 2: action is 'relabel:'"),
        ("file,finding,action\na,odd,\n", "line 2: action is ''"),
        ("file,finding,action\na,odd,drop,1\n", "line 2: the row has 4 cells"),
        ("file,finding,action,score\na,odd,drop,2\n", "line 2: score is '2'"),
        ("file,finding,action,score\na,odd,drop,nan\n", "line 2: score is 'nan'"),
    ],
)
def test_a_fault_is_one_line_with_its_number(tmp_path, text, message):
    with pytest.raises(DataError) as error:
        read_findings(table(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_or_class_that_the_data_lack_is_named_with_its_line(tmp_path):
    found = read_findings(table(tmp_path, "file,finding,action\na/1.png,odd,drop\nA/2.png,label,relabel:c\n"))
    with pytest.raises(DataError, match=r"line 3: file 'A/2.png' is not in the data set, .* as a/2.png"):
        found.check(["a/1.png", "a/2.png"], ["a"])
    with pytest.raises(DataError, match="line 3: class 'c' is unknown, the data set has a, b"):
        found.check(["a/1.png", "A/2.png"], ["a", "b"])


def test_drop_beats_keep_and_two_other_actions_are_refused():
    rows = (a_finding(action="keep"), a_finding(finding="copy"), a_finding(finding="odd", action="keep"))
    assert Findings(rows).changes().drops == {"a/1.png": "copy"}
    for other in ("drop", "relabel:c"):
        with pytest.raises(DataError, match=r"row 2: the action for a/1.png is .*, but row 1 says relabel:b"):
            Findings((a_finding(action="relabel:b"), a_finding(action=other))).changes()


def test_images_of_a_group_that_stay_are_put_into_one_part():
    rows = [a_finding(f"{n}.png", "copy", "drop" if n == 1 else "keep", group="c1") for n in range(4)]
    rows += [a_finding("9.png", "leak", "keep", "l1"), a_finding("0.png", "leak", "keep", "l1")]
    rows += [a_finding("7.png", "odd", "keep", "blank"), a_finding("8.png", "odd", "keep", "blank")]
    assert Findings(tuple(rows)).changes().groups == dict.fromkeys(["0.png", "2.png", "3.png", "9.png"], "0.png")


@given(st.lists(st.lists(st.integers(0, 8).map(str), min_size=1, max_size=3), max_size=8))
def test_groups_that_share_a_file_are_one(groups):
    found = groups_of_files(groups)
    assert all(len({found.get(file) for file in group}) == 1 for group in groups if len(set(group)) > 1)
    assert all(list(found.values()).count(group) > 1 for group in found.values())
    assert all(group == min(file for file in found if found[file] == group) for group in found.values())


@given(rows=st.lists(findings, max_size=6, unique_by=lambda row: row.file))
def test_changes_are_read_as_they_were_stored(rows):
    changes = Findings(tuple(rows), source="findings.csv").changes(parts={"moved": "train"})
    assert DataChanges.from_json(changes.to_json()) == changes


@pytest.mark.parametrize(
    "values",
    [
        {"other": 1},
        {"drops": []},
        {"drops": {"junk": ["a"]}},
        {"drops": {"copy": "abc"}},
        {"groups": {"a": ["b"]}},
        {"parts": {"side": ["a"]}},
        {"source": 3},
    ],
)
def test_other_values_are_no_changes(values):
    with pytest.raises(ValueError, match="changes"):
        DataChanges.from_json(values)


def test_the_digest_depends_on_actions_alone():
    rows = (a_finding(), a_finding("b.png"))
    moved = Findings(tuple(reversed(rows)), source="other.csv")
    assert Findings(rows).digest == moved.digest != Findings((a_finding(action="keep"), rows[1])).digest


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ("", ())),
        ("--clean", ("", ("--clean",))),
        ("--clean --fix-leaks", ("", ("--clean", "--fix-leaks"))),
        ("my table.csv --fix-leaks", ("my table.csv", ("--fix-leaks",))),
        ("a --clean b.csv", ("a --clean b.csv", ())),
        ("--clean.csv", ("--clean.csv", ())),
    ],
)
def test_the_source_names_a_table_and_options(source, expected):
    assert DataChanges(source=source).table_and_options == expected


def test_the_line_for_people_counts_by_kind():
    drops = {f"{n}.png": "outlier" for n in range(1600)} | {f"c{n}.png": "copy" for n in range(208)}
    changes = DataChanges(drops, {"x": "b", "y": "b"}, source="findings.csv")
    assert changes.line() == "left out by findings.csv: 1,808 images: 1,600 outlier, 208 copy; 2 relabelled"
    assert DataChanges(groups={"a": "a", "b": "a"}, source="f.csv").line() == "by f.csv: 1 group kept in one part"


def test_a_data_frame_needs_pandas(monkeypatch):
    real = builtins.__import__

    def without_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(UsageError, match="pip install pandas"):
        Findings((a_finding(),)).to_pandas()


def test_a_data_frame_has_the_columns_of_the_table():
    pytest.importorskip("pandas")
    frame = Findings((a_finding(),)).to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert frame.iloc[0].file == "a/1.png"


def test_counts_are_by_finding_and_action():
    found = Findings((a_finding(), a_finding("b"), a_finding("c", "label", "relabel:x")))
    assert found.counts() == {
        "outlier": {"keep": 0, "drop": 2, "relabel": 0},
        "label": {"keep": 0, "drop": 0, "relabel": 1},
    }
