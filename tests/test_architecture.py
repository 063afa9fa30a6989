"""The rules of docs/architecture.md that a program can check: order of the rooms, cycles, weight, size, no pickle."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from radon.complexity import cc_visit
from radon.visitors import Class

ROOT = Path(__file__).parent.parent
PACKAGES = ("search_spaces", "storage", "hpo")
HEAVY = ("torch", "torchvision", "timm", "albumentations", "optuna", "sqlalchemy", "sklearn", "cv2")
PICKLES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
UNSAFE = {"allow_pickle": True, "weights_only": False}
MOST_LINES_OF_A_FILE = 400
FEWEST_LINES_OF_A_FILE = 80
"""A shorter file that a single other file imports belongs into that file."""
MOST_LINES_OF_A_FUNCTION = 40
MOST_COMPLEXITY = 12
"""As radon counts it: comprehensions and boolean operators are branches too."""
ROOMS = (
    ("errors", "files", "seeds", "device", "interruption", "corruption_family", "corruptions", "unseen_corruptions",
     "hints", "logs", "markdown", "private_paths", "spreadsheet", "strict_json"),
    ("data",),
    ("augmentation", "evaluation"),
    ("models",),
    ("training", "bundle"),
    ("inspection",),
    ("figures",),
    ("explain",),
    ("search",),
    ("delivery", "doctor"),
    ("experiments", "report"),
    ("cli",),
)  # fmt: skip
"""The rooms of hpo, the lowest first. A room imports from the rows above its own in this list and from no other room of
its row. The first row is files, which may import each other."""
SHORT_FILES = {
    "hpo.__main__": "`python -m hpo`; no file imports it",
    "hpo.cli.doctor": "a command is imported by its name",
    "hpo.search.data_dimensions": "plan.py knows the space alone; here it meets the images",
    "search_spaces.explain": "a space in words, for a terminal and as JSON; knows neither",
}
"""Files under FEWEST_LINES_OF_A_FILE with at most one importer, each with its reason."""
LIGHT = ("optuna", "sqlalchemy", "psycopg2", "hpo.search")
"""Packages that a bundle must not need."""
CHOOSING = ("hpo.augmentation", "hpo.training", "hpo.search", "hpo.delivery", "hpo.models", "search_spaces", "storage")
"""Packages that make a model, or choose one of several."""
HELP_SECONDS = 0.5
COINED = re.compile(
    r"roster|entrant|contestant|keeper|shelf|kitchen|workshop|surroundings|circumstances|standstill|alteration|taking|witness"
)
"""Nouns of earlier versions for which the field has a word: see docs/glossary.md."""
LITERARY = re.compile(r"\b(nobody|somebody|whoever|flatters)\b", re.IGNORECASE)
FRAGMENT = re.compile(r"\s*(What|Of|Who) ")
"""How a docstring that is no sentence begins."""
LIGHT_ROOTS = ("storage.objects", "storage.errors")  # a bundle needs them in an environment without a database library


@dataclass(frozen=True)
class Module:
    """One source file of the three packages."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def imports(self) -> Iterator[tuple[str, int]]:
        """Yield (dotted name, line) of every import, those in functions and under `if TYPE_CHECKING:` included."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self.base(node)
                yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)

    def base(self, node: ast.ImportFrom) -> str:
        """Return the absolute name of what stands between `from` and `import`."""
        if not node.level:
            return node.module or ""
        here = self.name.split(".") if self.path.name == "__init__.py" else self.name.split(".")[:-1]
        above = here[: len(here) - node.level + 1]
        return ".".join([*above, *([node.module] if node.module else [])])


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


def origin(name: str) -> str | None:
    """Return the module of ours that defines `name`, where a package's `__init__` only passes it on."""
    package, _, attribute = name.rpartition(".")
    while name not in MODULES and package in MODULES and MODULES[package].path.name == "__init__.py":
        passed_on = [found for found, _ in MODULES[package].imports() if found.rpartition(".")[2] == attribute]
        if not passed_on or passed_on[0] == name:
            break
        name = passed_on[0]
        package = name.rpartition(".")[0]
    return target(name)


IMPORTS = {
    module.name: {found for name, _ in module.imports() if (found := origin(name)) and found != module.name}
    for module in MODULES.values()
}
"""Module -> the modules of ours that it imports names of, annotations included."""


def test_no_import_cycle() -> None:
    files = {name: found for name, found in IMPORTS.items() if MODULES[name].path.name != "__init__.py"}
    cycle: list[str] = []
    try:
        TopologicalSorter(files).prepare()
    except CycleError as error:
        cycle = error.args[1]
    assert not cycle, "import cycle: " + " <- ".join(cycle)


def test_every_room_is_in_the_order() -> None:
    rooms = {room_of(name) for name in MODULES if name.startswith("hpo.") and name != "hpo.__main__"}
    assert rooms == {room for row in ROOMS for room in row}


def test_a_room_imports_only_the_rooms_below_it() -> None:
    rank = {room: number for number, row in enumerate(ROOMS) for room in row}
    upwards = [
        f"{name} imports {found}"
        for name, imported in IMPORTS.items()
        for found in imported
        if name.startswith("hpo.") and found.startswith("hpo.") and name != "hpo.__main__"
        if (here := room_of(name)) != (there := room_of(found))
        if rank[there] >= rank[here] > 0 or rank[there] > rank[here]
    ]
    assert not upwards


def room_of(name: str) -> str:
    """Return the room of a module of hpo: `hpo.data.split` -> `data`."""
    return name.split(".")[1]


def test_the_drawing_in_the_documentation_is_this_order() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawing = text.partition("<!-- rooms -->")[2].partition("<!-- /rooms -->")[0]
    drawn = [tuple(line[4:].split("  ")[0].split()) for line in drawing.splitlines() if line.startswith("    ")]
    assert [tuple(sorted(row)) for row in drawn] == [tuple(sorted(row)) for row in ROOMS]


def reached_from(packages: tuple[str, ...]) -> set[str]:
    """Return the modules that those below `packages` load, directly or not, and these themselves."""
    reached: set[str] = set()
    waiting = [name for name in MODULES if name.startswith(packages)]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += IMPORTS[name]
    return reached


def test_nothing_that_makes_or_chooses_a_model_knows_the_unseen_corruptions() -> None:
    assert "hpo.unseen_corruptions" not in reached_from(CHOOSING)
    assert "hpo.unseen_corruptions" in reached_from(("hpo.report",)), "else this test looks for another name"


def test_neither_family_of_corruptions_imports_the_other() -> None:
    families = {"hpo.corruptions", "hpo.unseen_corruptions"}
    assert not [name for name in families if (reached_from((name,)) - {name}) & families]


def test_a_bundle_needs_no_database() -> None:
    assert not [
        f"{name} imports {found}"
        for name in sorted(reached_from(("hpo.bundle",)))
        for found, _ in MODULES[name].imports()
        if found.startswith(LIGHT) and MODULES[name].path.name != "__init__.py"
    ]


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


def test_no_file_is_long() -> None:
    lengths = {module.name: len(module.text.splitlines()) for module in MODULES.values()}
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FILE}


def test_a_short_file_has_several_users_or_a_reason() -> None:
    users = {name: {user for user, found in IMPORTS.items() if name in found} for name in MODULES}
    short = {
        module.name
        for module in MODULES.values()
        if module.path.name != "__init__.py" and len(module.text.splitlines()) < FEWEST_LINES_OF_A_FILE
        if len({user for user in users[module.name] if MODULES[user].path.name != "__init__.py"}) <= 1
    }
    assert short == set(SHORT_FILES)


def test_no_two_files_share_a_name() -> None:
    files: dict[str, list[str]] = {}
    for module in MODULES.values():
        # A command is named for what it does, and each package has its errors.
        if module.path.name not in ("__init__.py", "errors.py") and not module.name.startswith("hpo.cli."):
            files.setdefault(module.path.name, []).append(module.name)
    assert not {name: found for name, found in files.items() if len(found) > 1}


def test_no_two_classes_share_a_name() -> None:
    classes: dict[str, list[str]] = {}
    for module in MODULES.values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(module.name)
    assert not {name: found for name, found in classes.items() if len(found) > 1}


def test_no_function_is_complex() -> None:
    blocks = {
        f"{module.name}.{part.fullname}": part.complexity
        for module in MODULES.values()
        for block in cc_visit(module.text)
        for part in (block.methods if isinstance(block, Class) else [block])
    }
    assert blocks
    assert not {name: complexity for name, complexity in blocks.items() if complexity > MOST_COMPLEXITY}


def test_no_function_is_long() -> None:
    lengths = {
        f"{module.name}.{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION}


def pickle_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names taken from a module that can run code out of a file; only its errors may be caught."""
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


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that stands by itself: docstrings of modules, functions, classes and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of every function, class, argument and assigned variable."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def test_docstrings_are_sentences_in_plain_words() -> None:
    assert not [
        f"{module.path.relative_to(ROOT)}:{line} {text.strip().splitlines()[0]}"
        for module in MODULES.values()
        for line, text in docstrings(module.tree)
        if FRAGMENT.match(text) or LITERARY.search(text)
    ]


def test_no_name_is_coined_where_the_field_has_a_word() -> None:
    assert not [
        f"{module.path.relative_to(ROOT)}:{line} {name}"
        for module in MODULES.values()
        for line, name in defined_names(module.tree)
        if COINED.search(name.lower())
    ]
