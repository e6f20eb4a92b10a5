"""What every blob store promises: one suite, over a folder and over a real S3 server."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, NotFoundError, VerificationError
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles
from swarm.registry.blob_copies import BlobCopies
from swarm.registry.blob_store import BlobStore
from tests.support.s3 import S3Server, environment, s3_server

DATA: Final = bytes(range(256)) * 40
NAME: Final = digest_of(DATA)
BIG_BYTES: Final = 64 << 20
GROWTH_LIMIT_BYTES: Final = 48 << 20
_BUCKETS: Final = itertools.count()

_OPEN: Final = """
import os, sys, resource
from pathlib import Path
from swarm.digests import blake3
from swarm.domain.ids import Digest
def opened(place, folder):
    if not place:
        from swarm.modules import BlobFiles
        return BlobFiles(Path(folder))
    from swarm.registry.blob_copies import BlobCopies
    from swarm.registry.s3_blobs import connect_s3
    return connect_s3(place, BlobCopies(Path(folder)))
blobs = opened(sys.argv[1], sys.argv[2])
name, size = Digest(sys.argv[3]), int(sys.argv[4])
def chunks():
    for number in range(size >> 20):
        yield (number % 251).to_bytes(1, "big") * (1 << 20)
"""
_DIE_BEFORE_COMMIT: Final = """
with blobs.writer(name, size) as writer:
    for chunk in chunks():
        writer.write(chunk)
    os.kill(os.getpid(), 9)
"""
_WRITE_AND_READ: Final = """
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) << 10
import threading
most, done, before = 0, threading.Event(), anonymous()
def watch():
    global most
    while not done.wait(0.005):
        most = max(most, anonymous())
watching = threading.Thread(target=watch)
watching.start()
with blobs.writer(name, size) as writer:
    for chunk in chunks():
        writer.write(chunk)
    writer.commit()
fresh = opened(sys.argv[1], sys.argv[2] + "-other") if sys.argv[1] else blobs
hash = blake3()
hash.update(fresh.open_verified(name))
assert hash.hexdigest() == name
done.set()
watching.join()
print(most - before)
"""


@dataclass(frozen=True)
class Place:
    """A store under test, and ways around it."""

    new: Callable[[], BlobStore]
    """Opens the same place anew, as another process would."""
    damage: Callable[[Digest], None]
    """Flips one bit of a blob behind the store's back."""
    names: Callable[[], set[str]]
    """What somebody else sees there under a name."""
    url: str
    folder: Path


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "files":
        yield file_place(tmp_path)
        return
    pytest.importorskip("obstore", reason="no obstore: pip install 'swarm[s3]'")
    with S3Place(request.getfixturevalue("s3"), tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def blobs(place: Place) -> BlobStore:
    return place.new()


def file_place(folder: Path) -> Place:
    root = folder / "blobs"

    def damage(blob: Digest) -> None:
        path = root / blob[:2] / blob
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def names() -> set[str]:
        return {p.name for p in root.glob("*/*") if p.parent.name != "incoming"}

    return Place(lambda: BlobFiles(root), damage, names, "", root)


class S3Place:
    def __init__(self, server: S3Server, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.server, self.folder, self.opened = server, folder, cast(list[object], [])
        for name, value in environment(server.endpoint).items():
            patch.setenv(name, value)

    def __enter__(self) -> Place:
        from swarm.registry.s3_blobs import S3Blobs, connect_s3

        client, bucket, copies = self.server.client, f"blobs-{next(_BUCKETS)}", itertools.count()
        client.create_bucket(Bucket=bucket)
        opened: list[S3Blobs] = []

        def new() -> BlobStore:
            made = connect_s3(f"s3://{bucket}/some/prefix", BlobCopies(self.folder / str(next(copies))))
            made = S3Blobs(made._store, "s3://test", made._copies, stats_for_s=0.0)
            opened.append(made)
            return made

        def damage(blob: Digest) -> None:
            key = f"some/prefix/{blob[:2]}/{blob}"
            data = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
            data[len(data) // 2] ^= 1
            client.put_object(Bucket=bucket, Key=key, Body=bytes(data))

        def names() -> set[str]:
            for store in opened:
                store.settle()
            rows = client.list_objects_v2(Bucket=bucket).get("Contents", [])
            return {row["Key"].rpartition("/")[2] for row in rows}

        self.opened = cast(list[object], opened)
        return Place(new, damage, names, f"s3://{bucket}/some/prefix", self.folder / "child")

    def __exit__(self, *_: object) -> None:
        for store in self.opened:
            store.close()  # type: ignore[attr-defined]


def put(blobs: BlobStore, data: bytes) -> Digest:
    name = digest_of(data)
    with blobs.writer(name, len(data)) as writer:
        writer.write(data)
        writer.commit()
    return name


def big_name() -> Digest:
    from swarm.digests import blake3

    found = blake3()
    for number in range(BIG_BYTES >> 20):
        found.update((number % 251).to_bytes(1, "big") * (1 << 20))
    return Digest(found.hexdigest())


def child(place: Place, code: str, name: Digest) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _OPEN + code, place.url, str(place.folder), name, str(BIG_BYTES)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_was_written_is_there_under_its_digest_for_everyone(place: Place, blobs: BlobStore) -> None:
    assert put(blobs, DATA) == NAME
    for store in (blobs, place.new()):
        assert bytes(store.open_verified(NAME)) == DATA
        assert store.size(NAME) == len(DATA)
        other = digest_of(b"x")
        assert store.missing([NAME, other, other]) == [other]
        assert store.sizes([NAME, other]) == {NAME: len(DATA)}
        assert store.stats() == (1, len(DATA))
        assert list(store.digests()) == [NAME]
    assert place.names() == {NAME}
    assert blobs.free_bytes() > 0


def test_the_empty_blob_is_a_blob(place: Place, blobs: BlobStore) -> None:
    name = put(blobs, b"")
    assert bytes(place.new().open_verified(name)) == b""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=300), max_size=6))
def test_a_blob_in_chunks_is_the_blob_as_a_whole(blobs: BlobStore, chunks: list[bytes]) -> None:
    data = b"".join(chunks)
    with blobs.writer(digest_of(data), len(data)) as writer:
        for chunk in chunks:
            writer.write(memoryview(chunk))
        writer.commit()
    assert bytes(blobs.open_verified(digest_of(data))) == data


@pytest.mark.parametrize("sent", [DATA[:-1], DATA + b"x", DATA[:-1] + b"x"], ids=["short", "long", "other"])
def test_bytes_other_than_promised_are_refused_and_never_visible(
    place: Place, blobs: BlobStore, sent: bytes
) -> None:
    with pytest.raises(VerificationError, match=NAME[:12]), blobs.writer(NAME, len(DATA)) as writer:
        writer.write(sent)
        writer.commit()
    assert place.names() == set()
    assert blobs.missing([NAME]) == [NAME]


def test_the_sizes_of_many_are_those_of_each(blobs: BlobStore) -> None:
    names = [put(blobs, bytes(size)) for size in range(4)]
    others = [digest_of(b"other %d" % number) for number in range(300)]
    assert blobs.sizes(iter([*others, *names])) == {name: size for size, name in enumerate(names)}
    blobs.remove(names[1])
    assert blobs.sizes([*others, *names]) == {names[size]: size for size in (0, 2, 3)}
    assert blobs.sizes([]) == {}


def test_a_writer_without_commit_leaves_nothing(place: Place, blobs: BlobStore) -> None:
    with blobs.writer(NAME, len(DATA)) as writer:
        writer.write(DATA)
    assert place.names() == set()


def test_a_missing_blob_is_not_found_by_name(blobs: BlobStore) -> None:
    for ask in (blobs.size, blobs.open_verified):
        with pytest.raises(NotFoundError, match=NAME[:12]):
            ask(NAME)
    assert blobs.sizes([NAME]) == {} and blobs.stats() == (0, 0) and list(blobs.digests()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63])
def test_only_digests_are_names(blobs: BlobStore, name: str) -> None:
    for ask in (blobs.size, blobs.open_verified, blobs.remove, lambda n: blobs.writer(n, 1).__enter__()):
        with pytest.raises(InvalidInputError, match="digest"):
            ask(Digest(name))


def test_one_flipped_bit_is_refused_by_name_and_healed_by_the_next_copy(
    place: Place, blobs: BlobStore
) -> None:
    put(blobs, DATA)
    assert blobs.open_verified(NAME)
    place.damage(NAME)
    for store in (blobs, place.new()):
        for _ in range(2):
            with pytest.raises(VerificationError, match=NAME[:12]):
                store.open_verified(NAME)
        assert store.missing([NAME]) == [NAME]
    put(blobs, DATA)
    for store in (blobs, place.new()):
        assert store.missing([NAME]) == []
        assert bytes(store.open_verified(NAME)) == DATA


def test_what_was_removed_is_gone_at_once_and_a_view_of_it_stays(place: Place, blobs: BlobStore) -> None:
    put(blobs, DATA)
    view = blobs.open_verified(NAME)
    blobs.remove(NAME)
    assert blobs.missing([NAME]) == [NAME] and list(blobs.digests()) == [] and blobs.stats() == (0, 0)
    with pytest.raises(NotFoundError, match=NAME[:12]):
        blobs.open_verified(NAME)
    blobs.remove(NAME)
    assert bytes(view) == DATA
    assert place.names() == set()
    with pytest.raises(TypeError):
        view[0] = 1


def test_what_is_written_after_its_removal_stays(place: Place, blobs: BlobStore) -> None:
    for _ in range(20):
        put(blobs, DATA)
        blobs.remove(NAME)
        put(blobs, DATA)
        assert place.names() == {NAME}
        assert blobs.missing([NAME]) == []


def test_many_writers_of_one_blob_make_one_blob_while_it_is_read(place: Place, blobs: BlobStore) -> None:
    stores = [blobs, place.new()]
    put(blobs, DATA)
    with ThreadPoolExecutor(8) as threads:
        writing = [threads.submit(put, stores[n % 2], DATA) for n in range(16)]
        reading = [threads.submit(lambda s: bytes(s.open_verified(NAME)), stores[n % 2]) for n in range(16)]
        assert {future.result() for future in writing} == {NAME}
        assert {future.result() for future in reading} == {DATA}
    assert place.names() == {NAME}


def test_a_process_killed_before_its_commit_leaves_no_blob(place: Place, blobs: BlobStore) -> None:
    name = big_name()
    assert child(place, _DIE_BEFORE_COMMIT, name).returncode == -9
    assert blobs.missing([name]) == [name]
    assert place.names() == set()


def test_a_big_blob_goes_and_comes_in_bounded_memory(place: Place) -> None:
    done = child(place, _WRITE_AND_READ, big_name())
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < GROWTH_LIMIT_BYTES, f"grew by {int(done.stdout) >> 20} MiB"
