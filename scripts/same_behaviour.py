"""Compare the behaviour of two versions of hpo: store the results of seeded work with each, then compare them.

    cd CHECKOUT && .venv/bin/python scripts/same_behaviour.py store FOLDER
    python scripts/same_behaviour.py compare BEFORE AFTER

`store` uses the hpo of the current folder, under the Python that runs it, so this file may come from another checkout.
It calls commands and stores their output and files; from Python it uses only names that a user's program would import.
It takes one thread of the CPU and some three minutes if that is idle. FOLDER then holds:

    help/       --help of hpo and of every command
    commands/   arguments, exit code and output of each command of a whole project, from drawn cells to reports
    refused/    the same for commands that are refused
    files/      files of these commands: JSON, CSV and HTML as text, others as a digest
    loaded.txt  predictions of a model from Python
    fit.json    curves of `hpo.training.fit` for many configurations, with digests of weights and snapshots
    database/   the columns and the rows of every table

Floats are written in full, so that a curve is compared bit for bit. Only values that differ between two runs of one
version are replaced by placeholders: times, durations, speeds, memory, process numbers, random ids and paths.
"""

from __future__ import annotations

import atexit
import csv
import difflib
import gc
import hashlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import yaml

STEPS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
LIBRARIES = ("torch", "torchvision", "timm", "albumentations", "optuna", "sqlalchemy", "rich.console")
"""Libraries that take seconds to import; they are imported once for all commands."""
VARYING = re.compile("|".join(STEPS["varying"]["keys"]))
PATTERNS = [(re.compile(pattern, re.MULTILINE), shown) for pattern, shown in STEPS["varying"]["texts"]]


def main() -> int:
    """Run the command of the arguments; return 1 if two stored folders differ."""
    match sys.argv[1:]:
        case ["store", folder]:
            return store(Path.cwd(), Path(folder).resolve())
        case ["work", checkout, out]:
            work(Bench(Path(checkout), Path.cwd(), Path(out)))
            return 0
        case ["compare", before, after]:
            return 1 if compare(Path(before), Path(after)) else 0
    sys.exit(__doc__)


def store(checkout: Path, out: Path) -> int:
    """Run everything in a temporary folder, in a process of its own with a prepared environment."""
    out.mkdir(parents=True)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HPO_", "COLUMNS"))}
    environment = {
        **kept, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HPO_THREADS": "1", "HPO_DEVICE": "cpu",
        "HPO_HOME": "home", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "COLUMNS": "120",
        "LC_ALL": "C.UTF-8", "TZ": "UTC",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="same-") as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "work", str(checkout), str(out)]
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


class Bench:
    """The folder to work in, and the folder of results."""

    def __init__(self, checkout: Path, folder: Path, out: Path) -> None:
        self.checkout, self.folder, self.out = checkout, folder, out
        self._places = {str(folder): "<work>", str(checkout): "<checkout>", socket.gethostname(): "<host>"}

    def command(self, place: str, arguments: Sequence[str]) -> str:
        """Run hpo, write its output to `place`, and return what it printed."""
        code, printed, errors = forked(lambda: hpo(arguments))
        if "--json" in arguments and printed:
            value = json.loads(printed)
            printed = as_json(shape(value) if arguments[0] == "doctor" else value)
        elif "--csv" in arguments:
            printed = masked_table(printed, ",")
        text = f"$ hpo {' '.join(arguments)}\nexit code {code}\n{printed}\n--- stderr\n{errors}"
        # In help and refusals a duration is a default or an example, which must not change.
        self.write(f"{place}.txt", plain(text) if place.startswith("commands/") else text)
        print(f"{place}: exit code {code}", file=sys.stderr)
        return printed

    def function(self, place: str, function: Callable[[], None]) -> None:
        """Call a function and write its output to `place`."""
        _, printed, errors = forked(function)
        self.write(place, printed or errors)

    def write(self, place: str, text: str) -> None:
        """Write `text`, without paths of this machine, to `place` below the folder of results."""
        path = self.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        for found, shown in self._places.items():
            text = text.replace(found, shown)
        path.write_text(text, encoding="utf-8")


def forked(function: Callable[[], None]) -> tuple[int, str, str]:
    """Call `function` in a child process; return exit code, stdout and stderr.

    It is forked: what it imports of hpo is its own, but the libraries, which take seconds, are there already.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, Path(os.devnull).open("rb") as nothing:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            for descriptor, stream in enumerate((nothing, out, err)):
                os.dup2(stream.fileno(), descriptor)
            end_with(function)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return os.waitstatus_to_exitcode(status), out.read().decode(), err.read().decode()


def end_with(function: Callable[[], None]) -> NoReturn:
    """Call `function` and end the process as Python does, without the slow shutdown of the libraries."""
    code: Any = 0
    try:
        function()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # noqa: BLE001 - printed, as Python does
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def hpo(arguments: Sequence[str]) -> None:
    """Run `hpo` with `arguments`; it ends the process."""
    from hpo.cli import main as command

    command(list(arguments), prog_name="hpo")


def work(bench: Bench) -> None:
    """Run all steps."""
    import hpo

    used = Path(hpo.__file__)
    if used != bench.checkout / "hpo" / "__init__.py":
        sys.exit(f"{bench.checkout} is no checkout of hpo: {used} would be used")
    for library in LIBRARIES:
        import_module(library)
    prepare(bench.folder)
    gc.freeze()  # so that a child does not copy what its collector visits
    store_help(bench)
    for place in ("commands", "refused"):
        for line in STEPS[place].splitlines():
            step, *arguments = shlex.split(line)
            bench.command(f"{place}/{step}", arguments)
    bench.function("fit.json", print_curves)
    bench.function("loaded.txt", print_predictions)
    store_files(bench)
    store_database(bench)
    gc.unfreeze()


def prepare(folder: Path) -> None:
    """Write the input files of the commands beside the cells that they draw.

    Which memory format trains fastest is else measured, and may come out differently.
    """
    import torch

    device = f"cpu {torch.backends.cpu.get_cpu_capability()}, 1 thread | torch {torch.__version__}"
    formats = {
        f"{name} | 32 px | trained | fp32 | {device}": {"channels_last": True, "precision": "fp32"}
        for name in ("cnn3", "test_resnet")
    }
    (folder / "home" / "cache").mkdir(parents=True)
    (folder / "home" / "cache" / "speed.json").write_text(json.dumps(formats))
    (folder / "space.yaml").write_text(STEPS["space"])
    (folder / "broken.yaml").write_text("summary: broken\ndimensions: {epochs: {type: int, low: 3, high: 1}}\n")
    (folder / "empty").mkdir()
    (folder / "lone" / "a").mkdir(parents=True)


def store_help(bench: Bench) -> None:
    """Store the help of hpo, of its commands, and of the commands of its groups."""
    pages: list[list[str]] = [[]]
    for page in pages:
        printed = bench.command(f"help/{'-'.join(page) or 'hpo'}", [*page, "--help"])
        listed = printed.partition("\nCommands:\n")[2]
        pages += [[*page, name] for name in re.findall(r"^  ([a-z][a-z-]*)  ", listed, re.MULTILINE)]


def print_curves() -> None:
    """Print the results of `fit` for each configuration, as JSON."""
    fits = {name: curve({**STEPS["every_fit"], **changes}) for name, changes in STEPS["fits"].items()}
    print(as_json(fits))


def print_predictions() -> None:
    """Print the retrained model's predictions for some images, from Python."""
    import hpo

    model = hpo.load("final", "cpu")
    for found in model.predict(sorted(Path("others/test").rglob("*.jpg"))[:5]):
        print(found)


def curve(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of `fit` for a configuration, by epoch, and again from the state after the first epoch."""
    from hpo.data import open_dataset
    from hpo.training import FitData, Runtime, fit
    from search_spaces import TrialConfig

    dataset = open_dataset("cells", image_size=32, cache=Path("cache-of-fit"))
    data = FitData(dataset.train, dataset.val, len(dataset.classes))
    config, runtime = TrialConfig.from_dict(values), Runtime(seed=11)
    epochs, snapshots = [], []
    for result in fit(config, data, runtime):
        epochs.append(epoch_of(result))
        snapshots.append(result.snapshot())
    resumed = [epoch_of(result) for result in fit(config, data, runtime, snapshots[0])]
    return {"config": config.to_dict(), "epochs": epochs, "resumed": resumed == epochs[1:]}


def epoch_of(result: Any) -> dict[str, Any]:
    """Return an EpochResult with digests in place of arrays and bytes."""
    snapshot = result.snapshot()
    kept = ("epoch", "last", "train_loss", "learning_rate")
    return {
        **{name: getattr(result, name) for name in kept},
        "metrics": dict(result.metrics),
        "facts": dict(result.facts),
        "logits": None if result.logits is None else digest(result.logits.tobytes()),
        "weights": digest(result.weights()),
        "resume": digest(snapshot.resume),
        "state": masked(json.loads(json.dumps(dict(snapshot.state)))),
    }


def store_files(bench: Bench) -> None:
    """Write the files that the commands left in the folder, except PostgreSQL's data and logs."""
    listed: list[str] = []
    for path in sorted(path for path in bench.folder.rglob("*") if path.is_file()):
        place = path.relative_to(bench.folder)
        if place.parts[0] == "cache-of-fit" or "postgres" in str(place) or "logs" in place.parts:
            continue
        text = readable(path)
        if text is None:
            listed.append(f"{place} {digest(path.read_bytes())}")
        else:
            bench.write(f"files/{plain(str(place))}.txt", plain(text))
    bench.write("files/digests.txt", plain("\n".join(listed)))


def readable(path: Path) -> str | None:
    """Return the text of a file with placeholders; None if it is no text."""
    if path.suffix not in (".json", ".jsonl", ".csv", ".html", ".md", ".svg", ".yaml"):
        return None
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return as_json(json.loads(text))
    if path.suffix == ".jsonl":
        return "\n".join(as_json(json.loads(line)) for line in text.splitlines())
    if path.suffix in (".csv", ".md"):
        return masked_table(text, "," if path.suffix == ".csv" else "|")
    text = re.sub(r"data:image/png;base64,[\w+/=]+", lambda found: digest(found[0].encode()), text)
    return re.sub(r'(?s)(<section id="cost".*?)<svg.*?</svg>', r"\1<svg>", text)  # its axis is time


def store_database(bench: Bench) -> None:
    """Write every table of the study's database: its columns, and its rows as JSON."""
    import psycopg2
    from psycopg2.extras import RealDictCursor

    with served(bench) as socket_folder:
        connection = psycopg2.connect(host=socket_folder, port=5432, user="hpo", dbname="postgres")
        with connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
            for table in sorted(row["table_name"] for row in cursor.fetchall()):
                cursor.execute(f'SELECT * FROM "{table}" ORDER BY 1')  # noqa: S608 - a name from this database
                columns = [column.name for column in cursor.description or ()]
                rows = [stored_row(dict(row)) for row in cursor.fetchall()]
                bench.write(f"database/{table}.json", plain(as_json({"columns": columns, "rows": rows})))
        connection.close()


def stored_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its JSON parsed, and an attribute's value under the attribute's name."""
    if "value_json" not in row:
        return row
    return {**row, "value_json": None, str(row["key"]): json.loads(row["value_json"])}


@contextmanager
def served(bench: Bench) -> Iterator[str]:
    """Yield the folder of the embedded PostgreSQL's socket; a dashboard keeps the server running during the block."""
    command = [sys.executable, "-m", "hpo", "dashboard", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=bench.folder, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield (bench.folder / "home" / "postgres" / "postmaster.pid").read_text().splitlines()[4]
        finally:
            server.terminate()


def compare(before: Path, after: Path) -> int:
    """Print each difference of two stored folders; return the number of files that differ."""
    stored = [
        {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()} for root in (before, after)
    ]
    different = 0
    for name in sorted({*stored[0], *stored[1]}):
        texts = [side[name].read_text(encoding="utf-8").splitlines() if name in side else [] for side in stored]
        if texts[0] != texts[1] or not all(name in side for side in stored):
            different += 1
            print("\n".join(difflib.unified_diff(texts[0], texts[1], f"before/{name}", f"after/{name}", "", "", 1, "")))
    print(f"{different} of {len({*stored[0], *stored[1]})} files differ")
    return different


def digest(content: bytes) -> str:
    """Return the shortened SHA-256."""
    return hashlib.sha256(content).hexdigest()[:24]


def as_json(value: Any) -> str:
    """Return JSON over many lines, with placeholders for the values that vary."""
    return json.dumps(masked(value), indent=1, ensure_ascii=False, default=str)


def masked(value: Any) -> Any:
    """Return the value with placeholders under the keys that vary."""
    if isinstance(value, dict):
        return {
            key: f"<{key}>" if VARYING.fullmatch(key) and one is not None else masked(one) for key, one in value.items()
        }
    return [masked(one) for one in value] if isinstance(value, list) else value


def masked_table(text: str, mark: str) -> str:
    """Return a table with cells separated by `mark`, with placeholders in the columns that vary."""
    lines: list[str] = []
    names: list[str] = []
    rows = csv.reader(text.splitlines()) if mark == "," else (line.split(mark) for line in text.splitlines())
    for cells in rows:
        names = names if len(names) == len(cells) else [cell.strip() for cell in cells]
        kept = [
            cell if not VARYING.fullmatch(name) or cell.strip() == name else f"<{name}>"
            for cell, name in zip(cells, names, strict=True)
        ]
        lines.append(mark.join(kept))
    return "\n".join(lines)


def plain(text: str) -> str:
    """Return the text with placeholders for times, durations, speeds, memory, process numbers and random ids."""
    for pattern, shown in PATTERNS:
        text = pattern.sub(shown, text)
    return text


def shape(value: Any) -> Any:
    """Return the keys, with the values of `what` and `ok`."""
    if isinstance(value, dict):
        return {key: one if key in ("what", "ok") else shape(one) for key, one in value.items()}
    return [shape(one) for one in value] if isinstance(value, list) else type(value).__name__


if __name__ == "__main__":
    sys.exit(main())
