"""Write constraints.txt: one exact version of every package that hpo and its development tools need.

Run by `make lock`. pip resolves the newest versions that pyproject.toml allows on the oldest supported Python; the
result must then resolve, from wheels alone, on every later one too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
OLDEST = (3, 11)
LATER = ("3.12", "3.13")
HEADER = """\
# The lock: what `make install`, the image and CI install. Written by `make lock`; the ranges are in pyproject.toml.
# Resolved on Linux with Python {python}, checked with {later}. What a platform does not need is not installed there.
"""


def requirements() -> list[str]:
    """Return the requirements of pyproject.toml, with the `dev` extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def resolve(*options: str) -> dict[str, str]:
    """Return the version by canonical name of all that pip would install. Raises CalledProcessError if none fits."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", report, *options, *requirements()], check=True)
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonical(item["metadata"]["name"]): item["metadata"]["version"] for item in found}


def canonical(name: str) -> str:
    """Return the normalised form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def text(pins: dict[str, str]) -> str:
    """Return the text of the constraints file with `pins`."""
    header = HEADER.format(python=".".join(map(str, OLDEST)), later=" and ".join(LATER))
    return header + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def main() -> None:
    """Resolve, check on the later Pythons, then write the file."""
    if sys.version_info[:2] != OLDEST:
        found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], OLDEST))
        raise SystemExit(
            f"this is Python {found}, but the lock is resolved on {wanted}: make lock PYTHON=python{wanted}"
        )
    pins = resolve()
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder, "constraints.txt")
        candidate.write_text(text(pins), encoding="utf-8")
        for version in LATER:
            resolve("--only-binary=:all:", "--python-version", version, "--constraint", str(candidate))
    (ROOT / "constraints.txt").write_text(text(pins), encoding="utf-8")


if __name__ == "__main__":
    main()
