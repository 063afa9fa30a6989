"""Checkpoints in S3: faults of the network and of the server, which a folder does not have."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import CheckpointError, DiskFullError, StorageError, StoreUnavailableError, open_objects, open_store
from storage.objects import S3Objects, split_location

from ..conftest import free_port

FILES = {"model.safetensors": b"\x00weights" * 100, "state.json": b"{}"}


@pytest.fixture
def unreachable(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a location behind an endpoint without a server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://somebody:Secret-1@127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return s3_root


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://my.bucket-1/a/b", ("my.bucket-1", "a/b/")),
        ("s3://bucket/a/", ("bucket", "a/")),
    ],
)
def test_a_location_names_bucket_and_prefix(location: str, parts: tuple[str, str]) -> None:
    assert split_location(location) == parts


@pytest.mark.parametrize("location", ["s3://", "s3:///a", "s3://Bucket/a", "s3://a_b/c"])
def test_a_location_without_a_bucket_is_refused(location: str) -> None:
    with pytest.raises(StorageError, match="names no place in S3; write s3://bucket/prefix"):
        open_store(location, "cells")


def test_without_boto3_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from storage import StorageError, open_store\n"
        "try:\n    open_store('s3://bucket', 'cells')\n"
        "except StorageError as error:\n    print(error)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "s3://bucket/cells needs boto3, which is not installed; pip install 'hpo[s3]'\n"


def test_each_client_reads_the_settings_of_its_moment_and_the_descriptions_of_services_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def client(key: str, region: str) -> Any:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "Secret-1")
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{region}.test:1")
        return S3Objects("s3://bucket/cells")._client

    pytest.importorskip("boto3")
    clients = [client("one", "eu-west-1"), client("other", "us-east-2")]
    assert [one._get_credentials().access_key for one in clients] == ["one", "other"]
    assert [one.meta.region_name for one in clients] == ["eu-west-1", "us-east-2"]
    assert [one.meta.endpoint_url for one in clients] == ["http://eu-west-1.test:1", "http://us-east-2.test:1"]
    monkeypatch.setattr("botocore.loaders.JSONFileLoader.load_file", lambda *_: pytest.fail("read again"))
    client("third", "eu-west-1")


def test_two_studies_and_other_objects_in_the_bucket_stay_apart(s3_root: str) -> None:
    open_store(s3_root, "cells").write(0, "best", FILES, {})
    open_store(s3_root, "cells-2").write(1, "best", FILES, {})
    open_objects(s3_root.removesuffix("/artifacts")).put("artifacts2/notes", b"mine")
    assert open_store(s3_root, "cells").trials() == {0}
    open_store(s3_root, "cells").drop({0, 1})
    assert open_store(s3_root, "cells-2").trials() == {1}


def test_more_objects_than_one_page_holds_are_all_listed(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.objects._PAGE", 2)
    objects = open_objects(s3_root)
    for number in range(5):
        objects.put(f"a/{number}", b"x" * number)
    assert {found.key: found.size for found in objects.list("a/")} == {f"a/{number}": number for number in range(5)}


def test_a_large_object_is_read_unchanged(s3_root: str) -> None:
    content = os.urandom(20_000_000)  # uploaded in parts
    objects = open_objects(s3_root)
    objects.put("large", content)
    assert objects.get("large") == content


def test_a_missing_bucket_is_reported_in_one_line(s3_root: str) -> None:
    store = open_store(s3_root.replace("test-", "none-"), "cells")
    with pytest.raises(StoreUnavailableError, match="NoSuchBucket") as caught:
        store.write(0, "latest", FILES, {})
    assert "\n" not in str(caught.value)


def test_a_network_fault_differs_from_a_missing_checkpoint_and_shows_no_password(unreachable: str) -> None:
    store = open_store(unreachable, "cells")
    for call in (
        lambda: store.has(0, "latest"),
        lambda: store.read(0, "latest"),
        lambda: store.write(0, "best", {}, {}),
    ):
        with pytest.raises(StoreUnavailableError, match=r"cannot be listed: .*check the bucket, the network") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "Secret-1" not in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be written"):
        open_objects(unreachable).put("a", b"")


def test_a_network_fault_while_reading_does_not_count_as_damage(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ReadTimeoutError

    store: Any = open_store(s3_root, "cells")
    for epoch in (1, 2):
        store.write(0, "latest", FILES, {"epoch": epoch})

    def time_out(**kwargs: Any) -> Any:
        raise ReadTimeoutError(endpoint_url="http://s3")

    monkeypatch.setattr(store._objects._client, "get_object", time_out)
    with pytest.raises(StoreUnavailableError, match="cannot be read"):
        store.read(0, "latest")


def test_a_server_without_room_is_a_full_disk(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    objects: Any = open_objects(s3_root)

    def refuse(body: Any, bucket: str, key: str) -> None:
        raise ClientError({"Error": {"Code": "XMinioStorageFull", "Message": "no space"}}, "PutObject")

    monkeypatch.setattr(objects._client, "upload_fileobj", refuse)
    with pytest.raises(DiskFullError, match="make room there"):
        objects.put("a", b"")


def test_an_upload_that_fails_leaves_nothing(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import EndpointConnectionError

    store: Any = open_store(s3_root, "cells")
    store.write(0, "latest", FILES, {"epoch": 1})
    before = [found.key for found in store._objects.list()]
    upload = store._objects._client.upload_fileobj

    def cut(body: Any, bucket: str, key: str) -> None:
        if key.endswith("manifest.json"):
            raise EndpointConnectionError(endpoint_url="http://s3")
        upload(body, bucket, key)

    monkeypatch.setattr(store._objects._client, "upload_fileobj", cut)
    with pytest.raises(CheckpointError, match="cannot be written"):
        store.write(0, "latest", FILES, {"epoch": 2})
    assert [found.key for found in store._objects.list()] == before
    assert store.read(0, "latest").info == {"epoch": 1}


_LISTING = (
    b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<Name>bucket</Name><Prefix></Prefix><IsTruncated>false</IsTruncated></ListBucketResult>"
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\n"


@pytest.fixture
def answered(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Yield a server at the endpoint that sends the bytes in this list to every request, and closes the connection."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.getsockname()[1]}")

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:  # closed
                    return
                with client:
                    client.recv(65_536)
                    client.sendall(b"".join(answers))

        threading.Thread(target=serve, daemon=True).start()
        yield answers
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(_HEAD + b"Content-Length: %d\r\n\r\n" % len(_LISTING), id="cut before the body"),
        pytest.param(_HEAD + b"Content-Length: %d\r\n\r\n" % len(_LISTING) + _LISTING[:150], id="cut in the body"),
        pytest.param(_HEAD + b"\r\n", id="cut before a body of unknown length"),
        pytest.param(b"", id="cut before the head"),
    ],
)
def test_a_listing_that_was_cut_is_no_empty_listing(s3_root: str, answered: list[bytes], answer: bytes) -> None:
    answered.append(answer)
    with pytest.raises(StoreUnavailableError, match="cannot be listed"):
        open_store(s3_root, "cells").has(0, "latest")


def test_a_whole_listing_without_an_object_is_empty(s3_root: str, answered: list[bytes]) -> None:
    answered.append(_HEAD + b"Content-Length: %d\r\n\r\n" % len(_LISTING) + _LISTING)
    assert not open_store(s3_root, "cells").has(0, "latest")
