"""Charts as parts of a page: its colours, unique ids, no external references, escaped text."""

import re
from html.parser import HTMLParser

import pytest

from hpo.figures.charts import BLUE, ROLES, VARIABLES, draw_inline_svg, plain_axes


def sketch(name="a", title="title"):
    def paint(figure):
        axes = plain_axes(figure)
        axes.plot([1, 2, 3], [1, 3, 2], "o-", color=BLUE)
        axes.set_title(title)

    return draw_inline_svg(name, (300, 200), f"a figure of {title}", paint)


def test_colours_are_roles_of_the_page():
    svg = sketch()
    assert "var(--blue)" in svg
    assert "var(--line)" in svg
    assert not re.findall(r"#[0-9a-f]{6}", svg), "a colour that does not follow the theme"


def test_light_values_of_roles_differ():
    assert len(VARIABLES) == len(ROLES)


def test_there_are_no_external_references():
    svg = sketch()
    assert "http" not in svg
    assert "<style" not in svg, "a style in an SVG would be the whole page's"


def test_ids_of_two_figures_differ_and_references_are_valid():
    one, two = sketch("a"), sketch("b")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((one, two), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= own


def test_the_same_chart_gives_the_same_text():
    assert sketch() == sketch()


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", 'a "b" & c', "$\\frac{1", "血液細胞"])
def test_text_is_escaped(text):
    class Reader(HTMLParser):
        tags, seen = [], ""

        def handle_starttag(self, tag, attrs):
            self.tags = [*self.tags, tag]

        def handle_data(self, data):
            self.seen += data

    reader = Reader()
    reader.feed(sketch(title=text))
    assert "script" not in reader.tags
    assert text in reader.seen
