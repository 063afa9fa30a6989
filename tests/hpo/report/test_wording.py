"""Numbers and names as text."""

import pytest

from hpo.report import wording


@pytest.mark.parametrize(("seconds", "expected", "roughly"), [
    (0.04, "0.0 s", "0 s"), (9.94, "9.9 s", "10 s"), (59, "59 s", "59 s"), (200, "3 min 20 s", "3 min"),
    (3_599.6, "1 h 00 min", "60 min"), (18_120, "5 h 02 min", "5.0 h"), (187_200, "2 d 4 h", "2.2 d"),
])  # fmt: skip
def test_spans(seconds, expected, roughly):
    assert wording.span(seconds) == expected
    assert wording.rough(seconds) == roughly


@pytest.mark.parametrize(
    ("count", "expected"), [(12, "12 B"), (1_500, "1.5 kB"), (812e6, "812 MB"), (2.54e9, "2.5 GB")]
)
def test_sizes(count, expected):
    assert wording.size(count) == expected


@pytest.mark.parametrize(("given", "expected"), [(0.00170712, "0.001707"), (True, "true"), (None, "none"), (64, "64")])
def test_values(given, expected):
    assert wording.value(given) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.84, "84"), (0.996, "99.6"), (0.99951, "> 99.9"), (1.0, "> 99.9")])
def test_confidence_is_never_rounded_to_one(share, expected):
    assert wording.confidence(share) == f"{expected}\N{NO-BREAK SPACE}%"


def test_counts_agree_with_their_nouns():
    assert wording.counted(1, "trial") == "1 trial"
    assert wording.counted(5_000, "class", "classes") == "5,000 classes"


@pytest.mark.parametrize(("text", "most", "expected"), [
    ("short", 10, "short"), ("abcdefghij", 5, "ab…ij"), ("tab\tbell\a", 20, "tab�bell�"), ("\udcff", 3, "�"),
    ("abcd", 1, "…"),
])  # fmt: skip
def test_names_are_shortened_in_the_middle_and_printable(text, most, expected):
    assert wording.shortened(text, most) == expected
