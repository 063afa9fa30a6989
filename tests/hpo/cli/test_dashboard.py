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
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import click
import pytest

from hpo.cli.dashboard import DashboardServer, make_dashboard
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
def test_a_used_port_is_refused(study: Database) -> None:
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


MEASURE = b"setInterval(() => { document.title = `width ${document.documentElement.scrollWidth}`; }, 50)"


@pytest.mark.postgres
@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_of_a_trial_fits_the_window(study: Database, tmp_path: Path) -> None:
    """A configuration is one line of JSON with some fifty keys; it made the page seven thousand pixels wide."""
    import optuna

    made = optuna.load_study(storage=study.storage, study_name="seen in a browser")
    trial = made.ask()
    trial.set_user_attr("config", {f"backbone_of_many_{number}": number / 7 for number in range(60)})
    made.tell(trial, 0.5)
    server = make_dashboard(study, "127.0.0.1", 0)
    dashboard = server.get_app()
    assert dashboard is not None

    def measuring(environ: Any, start_response: Any) -> Any:
        """Return the dashboard with a script of its own origin that writes the width of the page into its title."""
        if environ["PATH_INFO"] == "/measure.js":
            start_response("200 OK", [("Content-Type", "text/javascript")])
            return [MEASURE]
        if not environ["PATH_INFO"].startswith("/dashboard"):
            return dashboard(environ, start_response)
        whole = b"".join(dashboard(environ, lambda status, headers: start_response(status, unsized(headers))))
        return [whole.replace(b"</head>", b'<script defer src="/measure.js"></script></head>', 1)]

    server.set_app(measuring)
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        f"--user-data-dir={tmp_path}", "--window-size=1280,1000", "--virtual-time-budget=20000",
    ]  # fmt: skip
    assert BROWSER is not None
    with serving(server) as address:
        place = f"{address}/dashboard/studies/{made._study_id}/trials?numbers={trial.number}"
        command = [BROWSER, *flags, "--dump-dom", place]
        page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "backbone_of_many" in page
    width = re.search(r"<title>width (\d+)", page)
    assert width
    assert int(width[1]) <= 1280  # less where there is a vertical scroll bar


def unsized(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() != "content-length"]


def asked(address: str, path: str = "/api/studies", method: str = "GET", **headers: str) -> tuple[int, str]:
    host, _, port = address.removeprefix("http://").partition(":")
    with closing(HTTPConnection(host, int(port))) as connection:
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.postgres
def test_the_dashboard_answers_only_to_its_own_names(study: Database) -> None:
    """A page of another site whose name points to this machine would otherwise have access."""
    with serving(make_dashboard(study, "127.0.0.1", 0, ["board.example", "Other.Example"])) as address:
        ours = ("127.0.0.1", "127.0.0.1:9000", "localhost", "LOCALHOST:8080", "[::1]:8080", "10.1.2.3", "x.localhost")
        for host in (*ours, "board.example", "other.example:443", "board.example.", socket.gethostname(), ""):
            assert asked(address, Host=host)[0] == 200, host
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "a@b c"):
            assert asked(address, Host=host)[0] == 403, host
        assert asked(address, "/dashboard", Host="evil.example")[0] == 403
    assert "add --allow-host evil.example to the command that started it" in asked_once(study, "evil.example")


def asked_once(study: Database, host: str) -> str:
    with serving(make_dashboard(study, "127.0.0.1", 0)) as address:
        return asked(address, Host=host)[1]


@pytest.mark.postgres
def test_pages_of_other_sites_change_nothing(study: Database) -> None:
    with serving(make_dashboard(study, "127.0.0.1", 0, ["board.example"])) as address:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "", "http://["):
            for method in ("DELETE", "POST", "PUT"):
                assert asked(address, "/api/studies/1", method, Origin=origin)[0] == 403, origin
        assert asked(address, Origin="http://evil.example")[0] == 200
        assert asked(address, "/api/studies/77", "DELETE", Origin=address)[0] == 404
        assert asked(address, "/api/studies/77", "DELETE", Origin="https://board.example")[0] == 404
        assert asked(address, "/api/studies/1", "DELETE")[0] == 204


@pytest.mark.postgres
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_deleted_study_is_not_found(study: Database, method: str) -> None:
    with serving(make_dashboard(study, "127.0.0.1", 0)) as address:
        assert asked(address, "/api/studies/77", method)[0] == 404


@pytest.mark.parametrize("value", ["tcp://10.0.0.7:8080", "udp://10.0.0.7:53", "tcp://[fd00::7]:8080"])
def test_the_variable_of_a_kubernetes_service_is_not_taken_as_a_port(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the pods beside a Service called `hpo`, HPO_PORT holds its address."""
    from hpo.cli.dashboard import dashboard_command

    monkeypatch.setenv("HPO_PORT", value)
    assert dashboard_command.make_context("dashboard", []).params["port"] == 8080
    assert dashboard_command.make_context("dashboard", [], default_map={"port": 99}).params["port"] == 99
    monkeypatch.setenv("HPO_PORT", "8081")
    assert dashboard_command.make_context("dashboard", [], default_map={"port": 99}).params["port"] == 8081
    monkeypatch.setenv("HPO_PORT", "no port")
    with pytest.raises(click.BadParameter):
        dashboard_command.make_context("dashboard", [])


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
