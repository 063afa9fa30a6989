"""The page in a real browser: visible content in both themes and on paper, and no errors."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.report.build import report_bundle, study_page
from hpo.report.model_data import ModelData
from hpo.report.page import render

from .conftest import make_bundle, make_study

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
DARK, LIGHT = 0, 1

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
]


def browse(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open page.html of `folder` in the browser; return what it prints on its console."""
    assert BROWSER is not None
    address = (folder / "page.html").as_uri()
    words = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done


def picture(folder: Path, theme: int) -> np.ndarray:
    """Return the top of the page, (3000, 1100, 3) uint8."""
    browse(folder, f"--blink-settings=preferredColorScheme={theme}", "--window-size=1100,3000",
           f"--screenshot={folder / 'page.png'}")  # fmt: skip
    return np.asarray(Image.open(folder / "page.png").convert("RGB"))


@pytest.fixture
def folder(tmp_path):
    page = render(study_page(make_study(24), ModelData(make_bundle(("blue", "<b>green</b>", "red"))), None, ""))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    return tmp_path


def test_the_page_is_visible_in_both_themes(folder):
    light, dark = picture(folder, LIGHT), picture(folder, DARK)
    assert light[5, 5].mean() > 240
    assert dark[5, 5].mean() < 40
    for seen in (light, dark):
        ground = np.abs(seen.astype(int) - seen[5, 5].astype(int)).sum(axis=2) > 30
        assert 0.01 < ground.mean() < 0.5, "neither blank nor filled"
        assert ground.reshape(10, 300, 1100).any(axis=(1, 2)).all(), "something on every part of the way down"


def test_the_page_prints(folder):
    browse(folder, "--no-pdf-header-footer", f"--print-to-pdf={folder / 'page.pdf'}")
    printed = (folder / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 3


def test_charts_have_names_in_the_accessibility_tree(folder):
    tree = browse(folder, "--dump-dom").stdout
    assert tree.count("<svg") >= 6
    assert "&lt;b&gt;green&lt;/b&gt;" in tree
    assert "<b>green</b>" not in tree


def test_images_are_shown(cells, tmp_path):
    (tmp_path / "page.html").write_text(report_bundle(cells.bundle, cells.images, cells.options), encoding="utf-8")
    seen = picture(tmp_path, LIGHT)
    warm = seen[..., 0].astype(int) - seen[..., 2].astype(int)
    assert (np.abs(warm) > 40).mean() > 0.005, "cells are coloured, text is not"
