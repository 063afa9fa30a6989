from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import storage

HEAVY = ("optuna", "sqlalchemy", "psycopg2", "boto3")


def imports_for_type_checkers() -> dict[str, str]:
    """Module of each name that the body of `if TYPE_CHECKING:` imports."""
    tree = ast.parse(Path(storage.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: node.module or ""
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_lazy_table_the_public_names_and_the_typed_imports_agree() -> None:
    table = {name: f"storage.{module}" for name, module in storage._MODULES.items()}
    assert table == imports_for_type_checkers()
    assert sorted(storage.__all__) == sorted(table)
    assert sorted(storage._MODULES) == sorted(name for names in storage._NAMES.values() for name in names)


@pytest.mark.parametrize("name", storage.__all__)
def test_each_public_name_is_that_of_its_module(name: str) -> None:
    assert getattr(storage, name) is getattr(import_module(f"storage.{storage._MODULES[name]}"), name)
    assert name in dir(storage)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'storage' has no attribute 'nonsense'"):
        _ = storage.nonsense
    with pytest.raises(ImportError, match="nonsense"):
        exec("from storage import nonsense")


@pytest.mark.parametrize(
    "statement", ["import storage", "from storage.objects import is_url, open_objects", "import storage.errors"]
)
def test_objects_load_without_a_database_library(statement: str) -> None:
    code = f"import sys; {statement}; print(*[name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""
