"""Make the pictures of the README from an existing study: a terminal as SVG, optuna-dashboard as PNG.

    python scripts/pictures.py --study cells [--home .hpo] [--out docs/images]

The terminal shows the output of `hpo status` with its colours; a headless Chromium takes the dashboard's screenshot.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 132
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def hpo(*arguments: str) -> list[str]:
    """Return the command line of `hpo` under this Python."""
    return [sys.executable, "-m", "hpo", *arguments]


def terminal(command: list[str], shown: str, out: Path) -> None:
    """Run `command` as on a terminal of 132 columns and write what it prints as an SVG titled `shown`."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "green"), (shown, "bold")))
    console.print(Text.from_ansi(printed))
    console.save_svg(str(out), title="hpo")


@contextmanager
def dashboard(home: Path) -> Iterator[str]:
    """Run a dashboard for the duration of the block; yield its address."""
    command = hpo("dashboard", "--home", str(home), "--port", "0")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        match = re.search(r"http://\S+?:\d+", server.stdout.readline())
        assert match, "the dashboard did not say where it listens"
        try:
            yield match.group()
        finally:
            server.terminate()


def photograph(url: str, out: Path) -> None:
    """Return a screenshot of `url` by the first installed Chromium."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as profile:
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1500,1250",
            "--virtual-time-budget=15000", f"--user-data-dir={profile}", f"--screenshot={out}",
        ]  # fmt: skip
        subprocess.run([browser, *flags, url], check=True, capture_output=True, timeout=120)


def main() -> None:
    """Write both pictures of one study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True)
    parser.add_argument("--home", type=Path, default=Path(".hpo"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    command = hpo("status", "--study", options.study, "--home", str(options.home))
    terminal(command, f"hpo status --study {options.study}", options.out / "status.svg")
    with dashboard(options.home) as address:
        photograph(f"{address}/dashboard/studies/1", options.out / "dashboard.png")


if __name__ == "__main__":
    main()
