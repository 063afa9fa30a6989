"""SecondHome: an embedded PostgreSQL beside the campaign, whose folder is read from elsewhere, copied and moved.

The campaign's own server is reached by a URL, so faults of a folder cannot hit it. Rows are written to this server all
the time; in the end every committed row has to be there, and no other.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage import Database, StorageError, open_database

_ROOT = Path(__file__).parents[2]
_CONTAINER = ("unshare", "--pid", "--mount", "--ipc", "--fork", "--mount-proc", "--kill-child")
_PAUSE = 0.05  # seconds between two rows
_STRANGER = """
import sys
from pathlib import Path
from storage import StorageError, open_database
try:
    home = Path(sys.argv[1])
    with open_database(None, home=home, start_timeout=0) as database, database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO kept VALUES (-1)")
        print("wrote a row")
except StorageError as error:
    print("refused:", error)
"""


class SecondHome:
    """The folder, a thread that writes rows, and a thread that runs the drills one after another."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._home = folder / "home"
        self._broken: list[str] = []
        self._committed = 0
        self._copies = 0
        self._database = open_database(None, home=self._home)
        with self._database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE kept (number int)")
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write, name="second home", daemon=True)
        self._writer.start()
        self._drills = ThreadPoolExecutor(1, thread_name_prefix="drill")

    def read_elsewhere(self) -> None:
        """Open the folder from a container that has it at another path."""
        shown = 'mount --bind "$0" /mnt && mount -t tmpfs none "$0" && exec "$@"'
        before = (*_CONTAINER, "sh", "-c", shown, str(self._home.parent))
        self._drill(lambda: self._refuses(Path("/mnt", self._home.name), "is in use by another container", *before))

    def copy(self) -> None:
        """Copy the folder while its server runs, and open the copy."""
        self._copies += 1
        copy = self._home.parent / f"copy-{self._copies}"

        def work_on_copy() -> None:
            subprocess.run(["cp", "-a", str(self._home), str(copy)], check=False, stderr=subprocess.DEVNULL)
            self._refuses(copy, "is a copy of a folder whose PostgreSQL ran")
            shutil.rmtree(copy)

        self._drill(work_on_copy)

    def move(self) -> None:
        """Move the folder while its server runs, open it there, and move it back."""
        away = self._home.parent / "away"

        def work_on_moved() -> None:
            self._home.rename(away)
            try:
                self._refuses(away, "is in use")
            finally:
                away.rename(self._home)

        self._drill(work_on_moved)

    def broken(self) -> list[str]:
        """Finish all drills, close and reopen the folder, and return a message for every broken promise."""
        self._drills.shutdown()
        self.close()
        try:
            with open_database(None, home=self._home) as database:
                self._compare(database)
        except StorageError as error:
            self._broken.append(f"the second home cannot be opened again: {error}")
        return self._broken

    def close(self) -> None:
        """Finish the current drill and close the database; a second call does nothing."""
        self._drills.shutdown(cancel_futures=True)
        self._over.set()
        self._writer.join()
        self._database.close()

    def _write(self) -> None:
        while not self._over.wait(_PAUSE):
            try:
                with self._database.engine.begin() as connection:
                    connection.exec_driver_sql(f"INSERT INTO kept VALUES ({self._committed})")
                self._committed += 1
            except StorageError as error:
                self._broken.append(f"a write to the second home failed: {error}")
                return

    def _drill(self, action: Callable[[], None]) -> None:
        def guarded() -> None:
            before = self._traces()
            try:
                action()
            except OSError as error:
                self._broken.append(f"a drill on the second home failed: {error}")
            if self._traces() != before:
                self._broken.append("postmaster.pid, server.log or hpo.server of a folder in use were changed")

        self._drills.submit(guarded)

    def _refuses(self, home: Path, reason: str, *before: str) -> None:
        command = [*before, sys.executable, "-c", _STRANGER, str(home)]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
        if not done.stdout.startswith("refused: ") or reason not in done.stdout:
            self._broken.append(f"on the second home as {home}: {(done.stdout + done.stderr).strip()[-300:]}")

    def _traces(self) -> list[bytes]:
        names = ("postmaster.pid", "server.log", "hpo.server")
        return [(self._home / "postgres" / name).read_bytes() for name in names]

    def _compare(self, database: Database) -> None:
        with database.engine.connect() as connection:
            found = list(connection.exec_driver_sql("SELECT number FROM kept ORDER BY number").scalars())
        lost = set(range(self._committed)) - set(found)
        if lost:
            self._broken.append(f"{len(lost)} of {self._committed} rows of the second home are lost")
        # A row whose COMMIT was not answered may be there.
        if strange := set(found) - set(range(self._committed + 1)):
            self._broken.append(f"{len(strange)} rows in the second home were written by others")


def containers_allowed() -> bool:
    """Return whether namespaces can be created and a file system mounted in them."""
    command = [*_CONTAINER, "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and not subprocess.run(command, check=False, capture_output=True).returncode
    )
