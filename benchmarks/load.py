"""The database under load: many workers at once, and a study that grows.

    python -m benchmarks.load [--workers 64] [--trials 2000] [--sizes 100 1000 10000] [--sampler tpe] [--out FILE]

Every worker is a process of its own with a trivial objective: claim, open (three parameters from the sampler, random by
default, and the attributes of a trial), five reports with a question to the pruner after each, tell, tidy (check which
checkpoints to keep; there are none). Writes go through the lease session, as in training, to one PostgreSQL of the
wheel with its usual settings. Then one worker runs on a study of 100 to 10,000 finished trials, in turns with plain
optuna in another database of the same server. Prints markdown; exits with 1 if the count of trials is not exact.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from optuna.storages import RDBStorage
from sqlalchemy import text

from benchmarks.load_crowd import Account, run_crowd
from benchmarks.load_growth import Growth, grow
from benchmarks.load_studies import STEPS, LeasedStudy, Method, PlainStudy, Stopwatch, Study, spec
from hpo.device import cores
from storage import Database, create_study, open_database, quiet_optuna

DECIMALS = 2


def main() -> None:
    """Run both parts and print them; write them to a file with --out."""
    options = parse()
    quiet_optuna()
    with tempfile.TemporaryDirectory(prefix="hpo-load-") as name, open_database(None, home=Path(name)) as db:
        db.initialise()
        Path(name).chmod(0o755)
        header = describe(db)
        print("\n".join(f"{key}: {value}" for key, value in header.items()), flush=True)
        crowd = run(db, Path(name), options) if options.workers else None
        growth = measure_growth(db, Path(name), options) if options.sizes else {}
    if options.out:
        found = {"crowd": vars(crowd) if crowd else None, "growth": {key: g.to_dict() for key, g in growth.items()}}
        options.out.write_text(json.dumps(header | found, indent=1))
    sys.exit(1 if crowd and any(crowd.wrong.values()) else 0)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=64, help="processes; 0 leaves this part out")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that an epoch takes")
    parser.add_argument("--sampler", default="random", help="as for `hpo run`, whose default is tpe")
    parser.add_argument("--pruner", default="none", help="as for `hpo run`")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def method(options: argparse.Namespace) -> Method:
    """Return sampler and pruner of the options."""
    return Method(options.sampler, options.pruner)


def describe(db: Database) -> dict[str, Any]:
    """Return date, machine, PostgreSQL and command of the run."""
    with db.engine.connect() as connection:
        version = connection.execute(text("SHOW server_version")).scalar_one()
        durable = connection.execute(text("SHOW fsync")).scalar_one()
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}, Python {platform.python_version()}",
        "PostgreSQL": f"{version}, fsync {durable}",
        "command": f"python -m benchmarks.load {' '.join(sys.argv[1:])}".strip(),
    }


def run(db: Database, folder: Path, options: argparse.Namespace) -> Account:
    """Run many workers at once."""
    url = db.url.render_as_string(hide_password=False)
    crowd = run_crowd(db, url, folder, options.workers, options.trials, method(options), options.pause)
    print("\n".join(crowd_table(crowd)), flush=True)
    return crowd


def crowd_table(crowd: Account) -> Iterator[str]:
    """Yield the lines of the result as markdown."""
    yield f"\n## {crowd.workers} workers, {crowd.trials} trials\n"
    yield f"- finished, every report right: {crowd.finished} of {crowd.trials}"
    yield "- " + ", ".join(f"{what}: {count}" for what, count in crowd.wrong.items())
    yield (
        f"- {crowd.wall:.1f} s, {crowd.finished / crowd.wall:.1f} trials a second; "
        f"the workers' own processor time is {crowd.processor / crowd.trials * 1000:.1f} ms a trial"
    )
    yield f"- connections at most: {crowd.sessions} ({crowd.sessions / crowd.workers:.2f} a worker)\n"
    yield "| ms | " + " | ".join(STEPS) + " |"
    yield "|---|" + "---:|" * len(STEPS)
    for quantile in (50, 95, 100):
        values = [np.percentile(crowd.seconds[step], quantile) * 1000 for step in STEPS]
        yield f"| p{quantile} | " + " | ".join(f"{value:.1f}" for value in values) + " |"
    yield from (f"- {error}" for error in crowd.errors[:5])


def measure_growth(db: Database, folder: Path, options: argparse.Namespace) -> dict[str, Growth]:
    """Measure one worker on a growing study, in turns with plain optuna."""
    how = method(options)
    ours = LeasedStudy(db, create_study(db, "growth", spec(how)), Stopwatch(db.storage.engine), folder, how)
    plain = plain_storage(db)
    studies: dict[str, Study] = {"hpo": ours, "optuna": PlainStudy(plain, Stopwatch(plain.engine), how)}
    found = {name: Growth() for name in studies}
    for size in grow(studies, options.sizes, found):
        print(f"measured at {size} trials", file=sys.stderr, flush=True)
    print("\n".join(growth_table(found)), flush=True)
    plain.engine.dispose()
    return found


def plain_storage(db: Database) -> RDBStorage:
    """Create a study of optuna alone, in a database of its own on the same server."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE plain"))
    return RDBStorage(db.url.set(database="plain").render_as_string(hide_password=False))


def growth_table(found: dict[str, Growth]) -> Iterator[str]:
    """Yield markdown: medians in ms, statements at the first and the last size, and the exponent of the growth."""
    sizes = next(iter(found.values())).sizes
    yield "\n## One worker on a study that grows: median ms, exponent b of a * trials ** b\n"
    yield "| | " + " | ".join(map(str, sizes)) + " | b | statements |"
    yield "|---|" + "---:|" * (len(sizes) + 2)
    for step in (*STEPS, "trial"):
        for name, growth in found.items():
            values = " | ".join(f"{seconds * 1000:.{DECIMALS}f}" for seconds in growth.median[step])
            sent = "–".join(dict.fromkeys(f"{count:g}" for count in growth.statements.get(step, [])[:: len(sizes) - 1]))
            yield f"| {step}, {name} | {values} | {growth.exponent(step):.2f} | {sent} |"
    for name, growth in found.items():
        yield f"| first trial, {name} | " + " | ".join(f"{seconds * 1000:.0f}" for seconds in growth.start) + " | | |"


if __name__ == "__main__":
    main()
