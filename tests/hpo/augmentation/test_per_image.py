from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import hpo
from hpo.augmentation.per_image import PerImage, _masks, _variable

IMPORT = re.compile(r"""^\s*(?:import|from) albumentations\b|import_module\(["']albumentations""", re.MULTILINE)


def test_no_other_file_imports_albumentations():
    root = Path(hpo.__file__).parent.parent
    sources = [path for package in ("hpo", "storage", "search_spaces") for path in (root / package).rglob("*.py")]
    users = {path.name for path in sources if IMPORT.search(path.read_text(encoding="utf-8"))}
    assert users == {"per_image.py"}


def test_the_strongest_masks_hide_a_quarter_at_most():
    masks = _masks(1, 96)
    masks.p = 1
    grey = np.full((200, 96, 96, 3), 128, np.uint8)
    hidden = (PerImage([masks])(grey, np.random.default_rng(0)) != 128).any(axis=3).mean(axis=(1, 2))
    assert hidden.min() > 0
    assert hidden.max() < 0.3


OFFLINE = """
import os, urllib.request
def refuse(*arguments, **options):
    raise SystemExit("albumentations asked the network")
urllib.request.OpenerDirector.open = refuse
from hpo.augmentation.augmenter import build_augmenter
from search_spaces import TrialConfig
build_augmenter(TrialConfig(augmentation="colour"))
print(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))
"""


def test_the_import_uses_no_network_and_leaves_the_environment_unchanged():
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "None"


def test_an_environment_variable_is_restored(monkeypatch):
    monkeypatch.setenv("HPO_TEST", "before")
    with _variable("HPO_TEST", "1"):
        assert os.environ["HPO_TEST"] == "1"
    assert os.environ["HPO_TEST"] == "before"
