"""The page of a data set: sections with and without evidence, hostile names, bounded size, visible in a browser."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hpo.data import Unreadable
from hpo.data.findings import Finding
from hpo.inspection.copies import Copies, CopyGroup, LabelAgreement, copy_findings
from hpo.inspection.embedding_map import map_embeddings
from hpo.inspection.imbalance import measure_imbalance
from hpo.inspection.leaks import find_leaks
from hpo.inspection.odd_images import find_odd_images
from hpo.report import data_figures
from hpo.report.data_evidence import DataEvidence, TargetFigures
from hpo.report.data_finding_sections import by_group
from hpo.report.data_page import render_data_page
from hpo.report.data_pictures import MOST, Thumbnail, evenly
from hpo.report.page import _environment

from ..inspection.inspected import inspected, pictures
from .conftest import section_of
from .test_browser import BROWSER, DARK, LIGHT, browse, picture
from .test_page import NASTY, Reader

SECTIONS = (
    "found", "outliers", "conflicts", "copies", "labels", "leaks", "odd", "looks", "balance", "map", "target", "made",
)  # fmt: skip
TARGET = TargetFigures(
    0.89, 0.95, [0.1, 0.25, 0.5, 1.0], [0.7, 0.8, 0.85, 0.89], [("linear probe", "accuracy 0.890")], "More may help."
)


def copies_of(data):
    """A pair, a turned pair, one picture under two labels, and a pair on two sides of the split."""
    groups = tuple(
        CopyGroup(np.array(rows), kinds, turns, (1.0,) * len(rows))
        for rows, kinds, turns in (
            ((0, 3, 6), ("exact-bytes", "exact-bytes", "near"), (0, 0, 0)),
            ((1, 4), ("exact-bytes", "turned"), (0, 5)),
            ((2, 7), ("exact-bytes", "near"), (0, 0)),
            ((9, 93), ("exact-bytes", "exact-pixels"), (0, 0)),
        )
    )
    group_of = np.arange(len(data))
    for group in groups:
        group_of[group.rows] = group.rows[0]
    return Copies(groups, group_of, LabelAgreement(20, 1.0, 0.3))


def evidence_of(classes=("blue", "green", "red"), names=(), **changes):
    """Evidence of every kind for 120 pictures, some of them planted."""
    images = pictures(120, size=24)
    images[5], images[8] = 255, (images[8] * 0.1).astype(np.uint8)
    data = inspected(
        images, np.arange(120) % 3, classes=classes, names=names, given=["train"] * 90 + ["val"] * 30,
        unreadable=(Unreadable("broken.jpg", "empty file (0 bytes)"),),
    )  # fmt: skip
    copies, odd = copies_of(data), find_odd_images(data)
    leaks = find_leaks(data, copies)
    rows = [
        *odd.findings, *copy_findings(data, copies), *leaks.findings,
        *(Finding(data.names[row], "outlier", "junk", 0.99, "drop", "far from all others") for row in (20, 21, 22)),
        Finding(data.names[30], "outlier", "", 0.7, "keep", "may not belong"),
        *(
            Finding(data.names[row], "label", "", 0.8, "keep", f"looks like {classes[1]}, as 5 of 5 neighbours")
            for row in (42, 45)
        ),
    ]  # fmt: skip
    points = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    made = DataEvidence(
        data, rows, odd, measure_imbalance(data), copies=copies, leaks=leaks, backbone="mobilenetv2_035, from a file",
        neighbours=lambda shown, count: {row: list(range(count)) for row in shown},
        map=map_embeddings(points, np.array([20, 21])), outlier_scores=np.linspace(0, 1, 118),
        outlier_threshold=0.9, outlier_facts=[("PCA + DBSCAN", "4 images")], label_facts=[("found by", "a probe")],
        target=TARGET, seconds={"copies": 1.5}, table="found.csv",
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(scope="module")
def evidence():
    return evidence_of()


@pytest.fixture(scope="module")
def page(evidence):
    return render_data_page(evidence)


def test_every_section_is_there_and_linked(page):
    assert tuple(re.findall(r'<section id="([\w-]+)"', page)) == SECTIONS
    assert set(re.findall(r'<li><a href="#([\w-]+)"', page)) == set(SECTIONS)


def test_the_page_is_well_formed_and_loads_nothing(page):
    reader = Reader(page)
    assert reader.open == []
    assert len(reader.ids) == len(set(reader.ids))
    assert not {"script", "link", "iframe", "object", "base", "form", "button"} & set(reader.tags)
    assert not re.search(r"https?:|@import", page)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("#", "data:image/jpeg;base64,", "data:image/png;base64,"))


@pytest.mark.parametrize(("key", "words"), [
    ("found", ("unreadable files", "pictures that do not belong", "certain", "hpo run cells --study cells --clean",
               "--findings found.csv", "--fix-leaks", "before and after")),
    ("outliers", ("3 images", "far from all others", "may not belong", "PCA + DBSCAN", "limit 0.9")),
    ("conflicts", ("under several labels", "green", "red")),
    ("copies", ("kept", "left out", "same bytes", "almost the same", "mirrored and turned by 90°", "100.0%")),
    ("labels", ("green", "score 0.80", "neighbours with their labels")),
    ("leaks", ("val", "train", "What an honest figure would lose", "goes to val", "--study cells --clean --fix-leaks")),
    ("odd", ("blank: one colour", "darker than the others", "broken.jpg", "limit", "left out", "kept")),
    ("looks", ("120 in 3 classes", "24 × 24", "blue")),
    ("balance", ("Cui et al.", "oversample_to=30", "no remedy is needed")),
    ("map", ("before cleaning: 120 images", "after cleaning", "t-SNE")),
    ("target", ("More may help.", "accuracy 0.890", "bound 0.950")),
    ("made", ("mobilenetv2_035", "copies 1.5 s")),
])  # fmt: skip
def test_a_section_has_its_content(page, key, words):
    section = section_of(page, key)
    for word in words:
        assert word in section, word


def test_missing_evidence_says_why(evidence):
    bare = replace(
        evidence, backbone="", neighbours=None, map=None, outlier_scores=None, target=None,
        findings=[row for row in evidence.findings if row.finding not in ("outlier", "label")],
        skipped={"embeddings": "the weights cannot be fetched"},
    )  # fmt: skip
    page = render_data_page(bare)
    for key in ("outliers", "labels", "map", "target"):
        assert 'class="missing"' in section_of(page, key)
        assert "the weights cannot be fetched" in section_of(page, key), key
    assert "Not looked at" in section_of(page, "found")


def test_a_set_without_findings_says_so():
    data = inspected(pictures(60, size=16), np.arange(60) % 2)
    none = Copies((), np.arange(60), LabelAgreement(0, 0.0, 0.5))
    odd = find_odd_images(data)
    page = render_data_page(
        DataEvidence(data, odd.findings, odd, measure_imbalance(data), copies=none, leaks=find_leaks(data, none))
    )
    assert "Nothing." in section_of(page, "found")
    assert "would leave out none" in page[: page.index("<main>")]
    assert "brings no parts" in section_of(page, "leaks")
    assert "None: all images can be read" in section_of(page, "odd")


@pytest.mark.parametrize("name", NASTY)
def test_names_of_classes_and_files_are_escaped(name):
    files = [f"{name}/{row}" for row in range(120)]
    page = render_data_page(evidence_of((name, f"{name} 2", "red"), files, table=f"{name}.csv"))
    reader = Reader(page)
    assert "script" not in reader.tags
    assert reader.open == []
    assert not [attribute for attribute, _ in reader.attributes if attribute.startswith("on")]
    assert "<img src=x" not in page
    assert "\x07" not in page


def test_a_large_set_of_many_classes_gives_a_page_of_bounded_size():
    images = np.random.default_rng(0).integers(0, 256, (1_500, 40, 40, 3), dtype=np.uint8)
    names = [f"a folder with a long and winding name/and a file of such a name {row}.jpeg" for row in range(1_500)]
    data = inspected(images, np.arange(1_500) % 100, names=names)
    groups = tuple(CopyGroup(np.arange(i, i + 5), ("near",) * 5, (0,) * 5, (0.97,) * 5) for i in range(0, 1_000, 5))
    copies = Copies(groups, np.arange(1_500), LabelAgreement(200, 0.9, 0.01))
    odd = find_odd_images(data)
    rows = [
        *copy_findings(data, copies),
        *(Finding(name, "outlier", "", 0.9, "drop", "far from all others " * 9) for name in names[1_000:1_200]),
        *(Finding(name, "label", "", 0.9, "keep", "looks like another " * 9) for name in names[1_200:]),
    ]
    page = render_data_page(DataEvidence(data, rows, odd, measure_imbalance(data), copies=copies))
    assert page.count("<img") <= MOST
    assert len(page.encode()) < 6_000_000
    assert "40 more classes" in section_of(page, "looks")


def test_groups_are_ordered_by_size_and_findings_alone_stay_alone():
    rows = [Finding(file, "copy", group, 1.0, "keep", "") for file, group in zip("abcde", ["x", "", "", "x", "y"])]  # noqa: B905
    assert [len(group) for group in by_group(rows).values()] == [2, 1, 1, 1]


def test_evenly_takes_both_ends():
    assert evenly(range(100), 5) == [0, 25, 50, 74, 99]
    assert evenly([4, 7], 5) == [4, 7]


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_is_visible_in_both_themes_and_prints(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    light, dark = picture(tmp_path, LIGHT), picture(tmp_path, DARK)
    assert light[5, 5].mean() > 240
    assert dark[5, 5].mean() < 40
    for seen in (light, dark):
        drawn = np.abs(seen.astype(int) - seen[5, 5].astype(int)).sum(axis=2) > 30
        assert 0.01 < drawn.mean() < 0.5, "neither blank nor filled"
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_suggested_class_is_that_of_the_reason_even_where_names_are_digits():
    evidence = evidence_of(classes=("0", "1", "2"))
    reason = "labelled 0, but the probe says 2 (1.00) and so do 10 % of its neighbours; if they are right: relabel:2"
    row = Finding(evidence.data.names[42], "label", "", 0.8, "keep", reason)
    page = render_data_page(replace(evidence, findings=[row]))
    assert re.search(r">0</span> <span class=\"faint\">or</span> 2\?", section_of(page, "labels"))


@pytest.mark.parametrize(("low", "high"), [(8.0, 60.0), (0.3, 0.35), (20.0, 21.0), (1.0, 90_000.0), (1e-9, 5.0)])
def test_a_logarithmic_axis_has_a_few_round_ticks(low, high):
    ticks = data_figures._log_ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_a_file_has_its_name_below_it_shortened_in_the_middle():
    picture = Thumbnail("data:,", "neutrophil/" + "x" * 60 + "_0817.png", ("seems 3",))
    text = _environment().from_string('{% import "macros.html" as m %}{{ m.thumbnail(one) }}').render(one=picture)
    below = re.search(r'<span class="file" title="(.*?)">(.*?)</span>', text)
    assert below
    assert below[1] == picture.name
    assert below[2].startswith("neutrophil/")
    assert below[2].endswith("_0817.png")
    assert len(below[2]) == 34
