"""Store: the place of a campaign's checkpoints, and the means to damage them.

It is a folder, on a small disk of its own if one can be mounted, or a real S3 server (moto) that the workers reach
through a network which can be cut. The campaign itself reaches the server directly.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from storage import CheckpointStore, open_store
from storage.objects import open_objects
from tests.chaos.crew import forked
from tests.chaos.disk import SmallDisk, small_disk
from tests.chaos.proxy import Proxy, http_pieces
from tests.chaos.server import free_port
from tests.chaos.worker import end_with_parent

_BUCKET = "chaos"
_ENDPOINT = "AWS_ENDPOINT_URL_S3"
_ACCOUNT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "Secret-1", "AWS_DEFAULT_REGION": "us-east-1"}
_START = 60.0
"""Seconds within which the S3 server has to answer."""


@dataclass(frozen=True)
class Store:
    """The place of the checkpoints."""

    root: Path | str
    """The value of the workers' `--artifacts`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables by which the workers reach it."""
    disk: SmallDisk | None = None
    """The disk of the folder, if it can be filled."""
    proxy: Proxy | None = None
    """The network between the workers and the S3 server."""

    def open(self, study: str) -> CheckpointStore:
        """Open the checkpoints of a study, past the network that is cut."""
        return open_store(self.root, study)

    def damage(self, study: str, trial: int, strength: float) -> bool:
        """Damage or remove an object of the newest `latest` checkpoint of a trial; return False if there is none."""
        versions = self.open(study).names(trial, "latest")
        if not versions:
            return False
        draw = random.Random(strength)
        objects = open_objects(f"{self.root}/{study}")
        key = draw.choice(sorted(found.key for found in objects.list(f"{trial}/{versions[0]}/") if found.size))
        content = damaged(objects.get(key), draw)
        if content is None:
            objects.delete([key])
        elif self.proxy is not None:
            objects.put(key, content)
        else:  # in place, because the disk may have no room for a second file
            Path(self.root, study, key).write_bytes(content)
        return True


def damaged(content: bytes, draw: random.Random) -> bytes | None:
    """Return `content` with a byte flipped, or without its end; None when it is to be removed."""
    place, form = draw.randrange(len(content)), draw.random()
    if form < 0.2:
        return None
    if form < 0.5:
        return content[:place]
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


@contextmanager
def folder_store(folder: Path) -> Iterator[Store]:
    """Yield a store in a folder below `folder`, on a disk of its own if mounting is allowed."""
    with small_disk(folder / "disk") as disk:
        yield Store(disk.artifacts if disk else folder / "artifacts", disk=disk)


@contextmanager
def s3_store() -> Iterator[Store]:
    """Run an S3 server for the duration of the block; this process reaches it by its environment."""
    port = free_port()
    server = forked(_serve, port)
    proxy = Proxy(port, http_pieces)
    account = {**_ACCOUNT, _ENDPOINT: f"http://127.0.0.1:{port}"}
    former = {name: os.environ.get(name) for name in account}
    os.environ.update(account)
    try:
        _make_bucket(port)
        through = {**_ACCOUNT, _ENDPOINT: f"http://127.0.0.1:{proxy.port}"}
        yield Store(f"s3://{_BUCKET}/artifacts", through, proxy=proxy)
    finally:
        for name, value in former.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        proxy.close()
        server.kill()
        server.join()


def _serve(port: int) -> None:
    from moto.server import ThreadedMotoServer

    end_with_parent()
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it would log every request
    ThreadedMotoServer("127.0.0.1", port, verbose=False).start()
    threading.Event().wait()


def _make_bucket(port: int) -> None:
    import boto3

    end = time.monotonic() + _START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if time.monotonic() > end:
                raise RuntimeError(f"the S3 server does not answer after {_START:g} s") from None
            time.sleep(0.1)
    boto3.session.Session().client("s3").create_bucket(Bucket=_BUCKET)
