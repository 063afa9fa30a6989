"""Importing the package loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "optuna", "numpy", "sqlalchemy", "timm", "rich", "hpo", "storage")


def test_the_package_knows_no_database_and_no_torch() -> None:
    code = "import search_spaces, sys; search_spaces.catalog(); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "pydantic" in loaded
    assert not set(HEAVY) & set(loaded)
