"""Python and the libraries: their versions against what hpo and torchvision ask for, and whether they import."""

from __future__ import annotations

import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from hpo.health.check import Check, amiss, well

SHOWN = ("torch", "torchvision", "timm", "optuna", "sqlalchemy")
_ASKING = ("hpo", "torchvision", "optuna-dashboard")
"""Distributions whose requirements are looked at: the others pin nothing that matters here."""


def check_python() -> Check:
    """Which Python this is; `pip` refuses those that hpo does not run on."""
    return well("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def check_versions() -> Check:
    """The versions that are installed, against what is asked for."""
    wrong = [text for name in _ASKING for text in unmet(name)]
    if wrong:
        return amiss("libraries", ", ".join(wrong), "install again with `pip install -c constraints.txt .`")
    return well("libraries", ", ".join(f"{name} {version(name)}" for name in SHOWN))


def unmet(name: str) -> list[str]:
    """What the distribution `name` asks for and does not find, in words."""
    try:
        asked = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return [f"{name} is not installed"] if name != "hpo" else []  # hpo may run from its sources
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{name} needs {one}, {found}" for one in needed if (found := _found_wrong(one))]


def _found_wrong(requirement: Requirement) -> str:
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        return "which is not installed"
    return "" if requirement.specifier.contains(found, prereleases=True) else f"but {found} is installed"


def check_torch() -> Check:
    """Whether torch imports with its companions: builds from two package indices do not."""
    try:
        torch = import_module("torch")
        import_module("torchvision")
        import_module("timm")
    except (ImportError, RuntimeError, OSError) as error:
        said = str(error).strip().splitlines()[0]
        return amiss(
            "torch", f"torch, torchvision or timm does not import: {said}",
            "take torch and torchvision from one package index: a CPU build of one does not go with a CUDA build "
            "of the other",
        )  # fmt: skip
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    return well("torch", f"imports with torchvision and timm, {built}")
