"""The dashboard as a browser sees it, and as a process."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from hpo.dashboard import DashboardServer, make_dashboard
from hpo.errors import UsageError
from storage import Database

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def serving(server: DashboardServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def study(database: Database) -> Database:
    import optuna

    database.initialise()
    made = optuna.create_study(storage=database.storage, study_name="seen in a browser", direction="maximize")
    for value in (0.25, 0.75):
        trial = made.ask()
        trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        trial.report(value, step=1)
        made.tell(trial, value)
    return database


@pytest.mark.postgres
def test_it_serves_the_studies_of_the_database(study: Database) -> None:
    with serving(make_dashboard(study, "127.0.0.1", 0)) as address, urlopen(f"{address}/api/studies") as answer:
        names = [summary["study_name"] for summary in json.load(answer)["study_summaries"]]
    assert names == ["seen in a browser"]


@pytest.mark.postgres
def test_a_port_that_is_taken_is_told(study: Database) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} cannot be listened on .*choose another --port"):
            make_dashboard(study, "127.0.0.1", port)


@pytest.mark.postgres
@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_person_sees_the_study(study: Database, tmp_path: Path) -> None:
    assert BROWSER is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000",
    ]  # fmt: skip
    with serving(make_dashboard(study, "127.0.0.1", 0)) as address:
        command = [BROWSER, *flags, "--dump-dom", f"{address}/dashboard/"]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "seen in a browser" in page


@pytest.mark.postgres
def test_the_command_listens_on_this_machine_only_and_ends_with_a_signal(study: Database, tmp_path: Path) -> None:
    url = study.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "hpo", "dashboard", "--storage", url, "--home", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match
        with urlopen(f"{match.group()}/api/studies") as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
