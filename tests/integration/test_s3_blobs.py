"""Blobs in a real S3 server: killed uploads, outages, wrong settings, bounded copies, a registry over it."""

import asyncio
import itertools
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import (
    ExhaustedError,
    NotAuthorisedError,
    NotFoundError,
    SwarmError,
    UnreachableError,
    UsageError,
)
from swarm.registry.blob_copies import LEFT_FREE_BYTES, BlobCopies
from tests.support.registry import expert, fetched, open_registry, service_of
from tests.support.s3 import ACCESS_KEY, SECRET_KEY, S3Server, environment, s3_server

pytest.importorskip("obstore", reason="no obstore: pip install 'swarm[s3]'")
from swarm.registry.s3_blobs import S3Blobs, connect_s3

_BUCKETS = itertools.count()
_UPLOAD = """
import sys
from pathlib import Path
from swarm.digests import digest_of
from swarm.registry.blob_copies import BlobCopies
from swarm.registry.s3_blobs import connect_s3
blobs = connect_s3(sys.argv[1], BlobCopies(Path(sys.argv[2])))
data = bytes(40 << 20)
with blobs.writer(digest_of(data), len(data)) as writer:
    writer.write(data)
    print("uploading", flush=True)
    writer.commit()
print("done", flush=True)
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    set_environment(monkeypatch, environment(s3.endpoint))
    bucket = f"process-{next(_BUCKETS)}"
    s3.client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/p"


def set_environment(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


def put(blobs: S3Blobs, data: bytes) -> str:
    name = digest_of(data)
    with blobs.writer(name, len(data)) as writer:
        writer.write(data)
        writer.commit()
    return name


class HoldingRelay:
    """Passes bytes to a server until `limit` went there, then holds all of them; `held` tells when."""

    def __init__(self, target: tuple[str, int], limit: int) -> None:
        self.target, self.left, self.held = target, limit, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            threading.Thread(target=self.pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, False), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, is_counted: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if is_counted:
                    self.left -= len(data)
                    if self.left < 0:
                        self.held.set()
                        return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


def test_a_process_killed_amid_an_upload_leaves_nothing_visible_and_the_next_one_succeeds(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = url.split("/")[2]
    relay = HoldingRelay(("127.0.0.1", int(s3.endpoint.rpartition(":")[2])), limit=18 << 20)
    monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
    command = [sys.executable, "-c", _UPLOAD, url, str(tmp_path / "copies")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "uploading\n"
        assert relay.held.wait(120)
        child.kill()
        assert child.stdout.read() == ""
    relay.listener.close()
    assert "Contents" not in s3.client.list_objects_v2(Bucket=bucket)
    assert len(s3.uploads(bucket)) == 1, "parts that no name shows: the bucket's lifecycle rule ends them"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("done\n")
    (found,) = s3.client.list_objects_v2(Bucket=bucket)["Contents"]
    assert found["Size"] == 40 << 20


def test_an_upload_that_fails_is_named_leaves_no_parts_and_can_be_sent_again(
    s3: S3Server, url: str, tmp_path: Path
) -> None:
    blobs = connect_s3(url, BlobCopies(tmp_path))
    data = bytes(range(256)) * 1000
    s3.client.delete_bucket(Bucket=url.split("/")[2])
    with pytest.raises(UnreachableError, match="no such bucket"):
        put(blobs, data)
    with pytest.raises(UnreachableError, match="no such bucket"):
        list(blobs.digests())
    s3.client.create_bucket(Bucket=url.split("/")[2])
    assert bytes(blobs.open_verified(put(blobs, data))) == data  # type: ignore[arg-type]
    blobs.close()


def test_a_store_that_goes_away_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as server:
        set_environment(monkeypatch, environment(server.endpoint))
        server.client.create_bucket(Bucket="bucket")
        blobs = connect_s3("s3://bucket", BlobCopies(tmp_path))
        name = put(blobs, b"some bytes")
    for ask in (
        lambda: put(blobs, b"other bytes"),
        lambda: blobs.open_verified(name),  # type: ignore[arg-type]
        lambda: blobs.missing([name, digest_of(b"x")]),  # type: ignore[list-item]
        blobs.stats,
    ):
        with pytest.raises(UnreachableError, match=r"blobs at s3://bucket: found .*AWS_ENDPOINT_URL"):
            ask()
    blobs.close()


def refusal(url: str, folder: Path) -> SwarmError:
    with pytest.raises(SwarmError) as caught:
        connect_s3(url, BlobCopies(folder))
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET_KEY not in told and "other-secret" not in told
    return caught.value


def test_a_wrong_setting_is_refused_with_its_remedy_and_without_secrets(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = refusal("s3://no-such-bucket/p", tmp_path)
    assert isinstance(missing, NotFoundError) and "no such bucket" in str(missing)
    for bad in ("s3:///p", "s3://me:other-secret@bucket/p", "s3://bucket/p?key=other-secret", "gs://bucket"):
        wrong = refusal(bad, tmp_path)
        assert isinstance(wrong, UsageError) and "s3://BUCKET/PREFIX" in str(wrong)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "https" in str(refusal(url, tmp_path))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    away = refusal(url, tmp_path)
    assert isinstance(away, UnreachableError) and "AWS_ENDPOINT_URL" in str(away)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    nobody = refusal(url, tmp_path)
    assert isinstance(nobody, NotAuthorisedError) and "AWS_ACCESS_KEY_ID" in str(nobody)


def test_wrong_credentials_are_refused_without_telling_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="1") as server:
        server.client.create_bucket(Bucket="bucket")
        set_environment(monkeypatch, environment(server.endpoint))
        denied = refusal("s3://bucket/p", tmp_path)
    assert isinstance(denied, NotAuthorisedError)
    assert "InvalidAccessKeyId" in str(denied) and ACCESS_KEY not in str(denied)


def test_copies_are_bounded_and_what_went_is_downloaded_again(url: str, tmp_path: Path) -> None:
    blobs = connect_s3(url, BlobCopies(tmp_path, limit_bytes=25_000))
    names = [put(blobs, bytes([n]) * 10_000) for n in range(5)]
    copies = [path for path in tmp_path.glob("*/*") if path.is_file()]
    assert len(copies) == 2
    for number, name in enumerate(names):
        assert bytes(blobs.open_verified(name)) == bytes([number]) * 10_000  # type: ignore[arg-type]
        assert len([path for path in tmp_path.glob("*/*") if path.is_file()]) <= 2
    blobs.close()


def test_without_room_for_a_copy_nothing_is_sent(url: str, tmp_path: Path) -> None:
    copies = BlobCopies(tmp_path, free_bytes=lambda folder: LEFT_FREE_BYTES + 999)
    blobs = connect_s3(url, copies)
    assert put(blobs, bytes(999))
    with pytest.raises(ExhaustedError, match="free some space"):
        put(blobs, bytes(1000))
    assert blobs.missing([digest_of(bytes(1000))]) == [digest_of(bytes(1000))]
    blobs.close()


async def test_a_registry_publishes_serves_and_sweeps_over_s3(s3: S3Server, url: str, tmp_path: Path) -> None:
    registry = await open_registry(tmp_path / "registry")
    blobs = await asyncio.to_thread(connect_s3, url, BlobCopies(tmp_path / "copies"))
    registry.service = service_of(registry.store, blobs, registry.keyring)
    made, parts = expert()
    await registry.publish(parts)
    await registry.commit(made)
    assert await registry.service.missing(list(parts)) == []
    for name, data in parts.items():
        assert await fetched(registry.service, name) == data
    found = await registry.service.health()
    assert (found.blobs, found.blob_bytes, found.blobs_away) == (
        len(parts),
        sum(map(len, parts.values())),
        "",
    )
    restarted = await asyncio.to_thread(connect_s3, url, BlobCopies(tmp_path / "others"))
    again = service_of(registry.store, restarted, registry.keyring)
    await registry.store.withdraw("ada.e1", b"stone", None, "")
    assert await again.sweep() == len(parts)
    assert await again.sweep() == 0
    restarted.settle()
    assert "Contents" not in s3.client.list_objects_v2(Bucket=url.split("/")[2])
    for each in (blobs, restarted):
        each.close()
