"""docker-compose.yml in a real engine: one study, two workers, a dashboard; then down, up, and it is still there.

The image is built from the working tree, and stays, since most of it is the cache of the next build. PIP_INDEX_URL and
TORCH_INDEX_URL, where set, are handed on to the build.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
IMAGE = "hpo:compose-test"
TRIALS = 4
UID = "10001"
INIT_OPTIONS = "--set pretrained=false --set image_size=32 --set epochs=1 --set batch_size=8 --pruner none"
PATIENCE = 300.0  # seconds

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]


@cache
def compose_command() -> list[str]:
    """Return the command of the plugin, or of the older program; skip where there is neither, or no engine."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker on this machine")
    if not succeeds("docker", "info"):
        pytest.skip("the Docker engine does not answer `docker info`")
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and succeeds(*command, "version"):
            return command
    pytest.skip("there is neither `docker compose` nor `docker-compose`")


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Stack:
    """One project of docker-compose.yml, told apart from any other on the machine by its name."""

    name: str
    env_file: Path
    port: int

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [*compose_command(), "--project-name", self.name, "--env-file", str(self.env_file), *arguments]
        ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), check=False, capture_output=True, text=True)
        assert not check or ended.returncode == 0, f"{' '.join(arguments)}\n{ended.stdout}\n{ended.stderr}"
        return ended

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build", "--scale", "worker=2")

    def containers(self, service: str) -> list[str]:
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        return docker("ps", "--all", "--quiet", *filters).split()

    def exit_codes(self, service: str) -> list[str]:
        """Wait for the containers of a service to end."""
        return [docker("wait", container) for container in self.containers(service)]

    def status(self) -> dict[str, int]:
        answer = self.compose("run", "--rm", "-T", "cli", "status", "--json").stdout
        return json.loads(answer)["trials"]

    def get(self, path: str) -> bytes:
        """Return the dashboard's answer, once it serves."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                    return answer.read()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def clean_environment() -> dict[str, str]:
    """Without the variables that docker-compose.yml reads: only the env file counts."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("HPO_", "POSTGRES_", "COMPOSE_"))}


def env_file(folder: Path, **values: object) -> Path:
    """Return .env.example, filled in as a person would."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    keys = {line.lstrip("#").partition("=")[0] for line in lines}
    assert keys >= set(values)
    kept = [line for line in lines if line.lstrip("#").partition("=")[0] not in values]
    path = folder / "env"
    path.write_text("\n".join([*kept, *(f"{key}={value}" for key, value in values.items())]) + "\n", encoding="utf-8")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def image() -> str:
    compose_command()
    handed_on = [f"--build-arg={name}" for name in ("PIP_INDEX_URL", "TORCH_INDEX_URL") if name in os.environ]
    subprocess.run(["docker", "build", "--tag", IMAGE, *handed_on, "."], cwd=ROOT, check=True)
    return IMAGE


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return <folder>/images/<class>/*.png: three colours, told apart at a glance, readable by any user."""
    folder = tmp_path_factory.mktemp("data")
    folder.chmod(0o755)
    noise = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(20):
            pixels = noise.integers(0, 100, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def stack(image: str, cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Yield a running project whose workers have ended; remove it with its volumes afterwards."""
    port = free_port()
    values = {
        "POSTGRES_PASSWORD": f"p@ss/w:rd#%{secrets.token_hex(8)}",
        "HPO_IMAGE": image, "HPO_DATA": cells, "HPO_DATASET": "images", "HPO_STUDY": "colours", "HPO_SPACE": "quick",
        "HPO_BACKBONE": "test_resnet", "HPO_TRIALS": TRIALS, "HPO_INIT_OPTIONS": INIT_OPTIONS, "HPO_DEVICE": "cpu",
        "HPO_DASHBOARD_PORT": port,
    }  # fmt: skip
    stack = Stack(f"hpo-test-{secrets.token_hex(4)}", env_file(tmp_path_factory.mktemp("env"), **values), port)
    try:
        stack.up()
        stack.exit_codes("worker")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans", check=False)


def inspect(container: str, value: str) -> Any:
    return json.loads(docker("inspect", "--format", f"{{{{json {value}}}}}", container))


def users(container: str) -> list[str]:
    """Return the user id of each process in a running container."""
    _, *processes = docker("top", container, "-eo", "pid,uid").splitlines()
    return [process.split()[1] for process in processes]


def test_init_ends_well_and_both_workers_too(stack: Stack) -> None:
    assert stack.exit_codes("init") == ["0"]
    assert stack.exit_codes("worker") == ["0", "0"]


def test_the_workers_finish_exactly_the_trials_asked_for(stack: Stack) -> None:
    trials = stack.status()
    assert (trials["asked"], trials["finished"], trials["failed"]) == (TRIALS, TRIALS, 0)
    assert (trials["running"], trials["waiting"]) == (0, 0)


def test_the_dashboard_shows_the_study_on_this_machine_only(stack: Stack) -> None:
    assert b"colours" in stack.get("/api/studies")
    (dashboard,) = stack.containers("dashboard")
    assert {port["HostIp"] for port in inspect(dashboard, ".NetworkSettings.Ports")["8080/tcp"]} == {"127.0.0.1"}


def test_the_database_publishes_no_port_and_sees_no_other_network(stack: Stack) -> None:
    (postgres,) = stack.containers("postgres")
    assert not inspect(postgres, ".HostConfig.PortBindings")
    assert inspect(postgres, ".NetworkSettings.Networks").keys() == {f"{stack.name}_database"}
    assert docker("network", "inspect", "--format", "{{.Internal}}", f"{stack.name}_database") == "true"


def test_no_process_runs_as_root(stack: Stack) -> None:
    stack.get("/")
    (dashboard,), (postgres,) = stack.containers("dashboard"), stack.containers("postgres")
    assert set(users(dashboard)) == {UID}
    assert users(postgres)
    assert "0" not in users(postgres)


@pytest.mark.parametrize("service", ["init", "worker", "dashboard"])
def test_a_container_can_do_no_more_than_it_needs(stack: Stack, service: str) -> None:
    for container in stack.containers(service):
        host = inspect(container, ".HostConfig")
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert inspect(container, ".Config.User").partition(":")[0] == UID
        mounts = inspect(container, ".Mounts")
        assert [mount["RW"] for mount in mounts if mount["Destination"] == "/data"] == [False]


def test_what_env_sets_arrives_and_what_it_leaves_out_is_absent(stack: Stack) -> None:
    for container in stack.containers("worker"):
        variables = dict(line.split("=", 1) for line in inspect(container, ".Config.Env") if "=" in line)
        assert variables["HPO_BACKBONE"] == "test_resnet"
        assert variables["HPO_DATA"] == "/data/images"
        assert "HPO_TIMEOUT" not in variables
        assert variables["PGPASSWORD"] not in variables["HPO_STORAGE"]


def test_down_and_up_again_keep_the_study(stack: Stack) -> None:
    before = json.loads(stack.get("/api/studies"))
    stack.compose("down")
    stack.up()
    assert stack.exit_codes("worker") == ["0", "0"]
    assert json.loads(stack.get("/api/studies")) == before
    assert stack.status()["finished"] == TRIALS


@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "HPO_DATA"])
def test_compose_says_what_is_missing(tmp_path: Path, missing: str) -> None:
    values = {"POSTGRES_PASSWORD": "secret", "HPO_DATA": tmp_path, missing: ""}
    ended = Stack("hpo-test-config", env_file(tmp_path, **values), 0).compose("config", check=False)
    assert ended.returncode != 0
    assert missing in ended.stderr
    assert ".env.example" in ended.stderr


def test_the_gpu_override_asks_for_devices(tmp_path: Path) -> None:
    stack = Stack("hpo-test-config", env_file(tmp_path, POSTGRES_PASSWORD="secret", HPO_DATA=tmp_path), 0)
    shown = stack.compose("--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml", "config").stdout
    assert "driver: nvidia" in shown
    assert "HPO_DEVICE: cuda" in shown
