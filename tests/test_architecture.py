"""The rules of docs/architecture.md that a machine can hold: directions, cycles, weight, size, no pickle."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("search_spaces", "storage", "hpo")
HEAVY = ("torch", "torchvision", "timm", "albumentations", "optuna", "sqlalchemy", "sklearn", "cv2")
PICKLES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
UNSAFE = {"allow_pickle": True, "weights_only": False}
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 40
HELP_SECONDS = 0.5
LIGHT_ROOTS = ("storage.objects", "storage.errors")  # a bundle needs them in an environment without a database library


@dataclass(frozen=True)
class Module:
    """One source file of the three packages."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), str(self.path))

    def imports(self) -> Iterator[tuple[str, int]]:
        """(dotted name, line) of every import that can run, function-level ones included."""
        for node in running(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self.base(node)
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)

    def base(self, node: ast.ImportFrom) -> str:
        """The absolute name of what stands between `from` and `import`."""
        if not node.level:
            return node.module or ""
        here = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        above = here[: len(here) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])


def running(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and everything below it, but not the body of `if TYPE_CHECKING:`, which never runs."""
    yield node
    below: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        below = list(node.orelse)
    for child in below:
        yield from running(child)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    module_name(path): Module(module_name(path), path)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def target(name: str) -> str | None:
    """The module of ours that importing `name` loads: itself, or the one that `name` is an attribute of."""
    return next((found for found in (name, name.rpartition(".")[0]) if found in MODULES), None)


def breaches(package: str, forbidden: tuple[str, ...]) -> list[str]:
    """Imports in `package` of anything inside the `forbidden` packages."""
    return [
        f"{module.path.relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES.values()
        if module.name.split(".")[0] == package
        for name, line in module.imports()
        if name.split(".")[0] in forbidden
    ]


def test_the_packages_are_found() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("package", ["search_spaces", "storage"])
def test_the_lower_packages_import_neither_each_other_nor_hpo(package: str) -> None:
    assert not breaches(package, tuple(other for other in PACKAGES if other != package))


def test_the_lower_packages_stay_light() -> None:
    assert not breaches("search_spaces", ("torch", "timm", "sqlalchemy", "psycopg2"))
    assert not breaches("storage", ("torch", "timm", "albumentations", "sklearn", "cv2"))


def test_hpo_imports_the_lower_packages_by_their_roots() -> None:
    inside = [
        f"{module.path.relative_to(ROOT)}:{line} imports {name}"
        for module in MODULES.values()
        if module.name.split(".")[0] == "hpo"
        for name, line in module.imports()
        if name.split(".")[0] in ("search_spaces", "storage") and (name in MODULES or name.count(".") > 1)
        if "." in name and not name.startswith(LIGHT_ROOTS)
    ]
    assert not inside


def test_no_import_cycle() -> None:
    graph = {
        module.name: {found for name, _ in module.imports() if (found := target(name)) and found != module.name}
        for module in MODULES.values()
    }
    cycle: list[str] = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
    assert not cycle, "import cycle: " + " <- ".join(cycle)


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, hpo.cli; print(*[name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == ""


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs os.wait4 to count a child's processor time")
def test_help_answers_in_half_a_second() -> None:
    # Processor time, not the clock: the promise is about this program, not about what else the machine does.
    assert min(help_seconds() for _ in range(3)) < HELP_SECONDS


def help_seconds() -> float:
    """Processor seconds of one `hpo --help`."""
    child = subprocess.Popen([sys.executable, "-m", "hpo", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_files_stay_short() -> None:
    lengths = {module.name: len(module.path.read_text(encoding="utf-8").splitlines()) for module in MODULES.values()}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE}


def test_functions_stay_short() -> None:
    lengths = {
        f"{module.name}.{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION}


def pickle_names(tree: ast.Module) -> Iterator[str]:
    """What is taken from a module that can run code out of a file; its errors may be caught, nothing else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                f"{alias.name} as {alias.asname}" for alias in node.names if alias.asname and alias.name in PICKLES
            )
        elif isinstance(node, ast.ImportFrom) and node.module in PICKLES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PICKLES:
            yield f"{node.value.id}.{node.attr}"


def test_no_pickle_is_ever_loaded() -> None:
    used = {(module.name, name) for module in MODULES.values() for name in pickle_names(module.tree)}
    assert not {(module, name) for module, name in used if not name.endswith("Error")}
    assert not [
        f"{module.path.relative_to(ROOT)}:{keyword.value.lineno} says {keyword.arg}={keyword.value.value}"
        for module in MODULES.values()
        for keyword in ast.walk(module.tree)
        if isinstance(keyword, ast.keyword) and isinstance(keyword.value, ast.Constant)
        if keyword.arg in UNSAFE and keyword.value.value is UNSAFE[keyword.arg]
    ]


def test_torch_load_says_weights_only() -> None:
    """The default has changed between releases of torch; a reader should not have to know which one runs."""
    assert not [
        f"{module.path.relative_to(ROOT)}:{call.lineno}"
        for module in MODULES.values()
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load"
        if "weights_only" not in {keyword.arg for keyword in call.keywords}
    ]
