"""What is distributed: the version, the files in the wheel, the lock, the Makefile that README speaks of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hpo

ROOT = Path(__file__).parent.parent
PACKAGES = ("hpo", "search_spaces", "storage")
SPACES = ("quick", "standard", "thorough")
PROMISED_TARGETS = {"install", "demo", "test", "check", "test-compose"}


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def pins() -> dict[str, str]:
    """Canonical name -> version of each line of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in requirements}


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]]


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))


def test_the_version_is_one() -> None:
    assert project()["version"] == hpo.__version__ == version("hpo")


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{hpo.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_declared(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("space", SPACES)
def test_the_spaces_are_resources(space: str) -> None:
    assert files("search_spaces").joinpath("catalog", f"{space}.yaml").is_file()


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", "dist", "."], cwd=tmp_path, check=True)
    with ZipFile(next(tmp_path.glob("dist/hpo-*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {
        str(path.relative_to(tmp_path)) for package in PACKAGES for path in (tmp_path / package).rglob("*.*")
    }


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_lock_pins_each_requirement_within_its_range(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


def test_this_environment_is_the_lock() -> None:
    """So that what is tested is what is shipped; a local build such as torch 2.15.0+cpu counts as its version."""
    installed = {requirement.name: version(requirement.name).partition("+")[0] for requirement in requirements()}
    assert installed == {name: pins()[canonicalize_name(name)] for name in installed}


def test_every_pin_is_exact() -> None:
    assert not {name: pin for name, pin in pins().items() if not re.fullmatch(r"[0-9][\w.]*", pin)}


def test_the_makefile_has_the_promised_targets() -> None:
    assert targets() >= PROMISED_TARGETS


def test_readme_names_only_targets_that_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^\s*|`)make ([a-z][a-z-]*)", readme, re.MULTILINE))
    assert named
    assert named <= targets()


def test_the_temporary_files_of_the_tests_are_removed_whatever_their_end() -> None:
    """They are in memory where there is room, and would stay there."""
    script = ROOT / "scripts/with_memory_tmp.sh"
    done = subprocess.run(
        [script, "bash", "-c", "touch ${TMPDIR:-/tmp}/x; echo ${TMPDIR:-/tmp}; stat -c %a ${TMPDIR:-/tmp}; exit 3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    folder, mode = done.stdout.split()
    assert done.returncode == 3, done.stderr
    assert folder == os.environ.get("TMPDIR", "/tmp") or (mode == "755" and not Path(folder).exists())
