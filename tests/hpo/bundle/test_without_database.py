"""A deployed bundle needs no database: it is loaded, predicts and is evaluated where none can be imported."""

import subprocess
import sys
from pathlib import Path

import pytest

REFUSED = ("optuna", "sqlalchemy", "psycopg2", "hpo.search")

REFUSE = f"""
import sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if any(name == refused or name.startswith(refused + ".") for refused in {REFUSED}):
            raise ImportError(f"{{name}} must not be imported")

sys.meta_path.insert(0, Refuse())
bundle, images, folder = sys.argv[1:]
"""

USES = {
    "predict": """
import hpo
(found,) = hpo.load(bundle, device="cpu").predict([images + "/red/0.png"])
assert found.label in ("blue", "green", "red")
""",
    "evaluate and predict a folder": """
from pathlib import Path
import hpo
from hpo.bundle.access_ledger import AccessLedger
from hpo.bundle.evaluate import evaluate_on, select
from hpo.bundle.predict import predict
model = hpo.load(bundle, device="cpu")
selection = select(model.bundle, Path(images), cache=Path(folder) / "cache", split="test")
found = evaluate_on(model, selection, ledger=AccessLedger(Path(folder) / "home"))
assert found.openings == 1
assert predict(model, [Path(images)], str(Path(folder) / "predictions.csv")).predicted == 30
""",
    "import every module of the room": """
import importlib, pkgutil
import hpo.bundle
for module in pkgutil.iter_modules(hpo.bundle.__path__, "hpo.bundle."):
    importlib.import_module(module.name)
""",
}


@pytest.mark.parametrize("use", USES)
def test_a_bundle_is_used_without_a_database(bundle, images, tmp_path, use):
    program = REFUSE + USES[use]
    answer = subprocess.run(
        [sys.executable, "-c", program, str(bundle), str(images), str(tmp_path)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
