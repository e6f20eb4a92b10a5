"""Blobs as objects of an S3-compatible store, `<prefix>/<first two digits>/<digest>`.

Bytes are gathered in a local file and verified before the store sees any of them, and an upload, in parts
where it is large, becomes visible as a whole: so a name always means whole bytes. What is read is downloaded
in ranges into a local file and verified. Memory is bounded; the local files are copies that may be lost.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import S3Store

from swarm.domain.errors import (
    InvalidInputError,
    NotFoundError,
    SwarmError,
    UnreachableError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import Digest, digest
from swarm.registry.blob_copies import BlobCopies
from swarm.registry.blob_store import BlobSink
from swarm.registry.s3_troubles import CREDENTIALS, explained

if TYPE_CHECKING:
    from obstore import GetOptions

PART_BYTES: Final = 8 << 20
"""The size of a part on its way there and back; ten thousand of them are the largest object."""

_PARTS_AT_ONCE: Final = 4
_REQUESTS_AT_ONCE: Final = 16
_LISTED_FROM: Final = 100
_STATS_FOR_S: Final = 30.0
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 60.0
_RETRY_S: Final = 20.0
_RETRIES: Final = 3
_PROBE: Final = "probe"
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    size_bytes: int
    e_tag: str

    def __str__(self) -> str:
        return f"{self.size_bytes} {self.e_tag}"


def connect_s3(url: str, copies: BlobCopies) -> "S3Blobs":
    """Return the store at `s3://BUCKET/PREFIX`, seen to be there and writable.

    Endpoint, region and credentials come from the usual AWS_* environment variables. Raises UsageError for
    another kind of url, NotFoundError without the bucket, NotAuthorisedError for wrong credentials,
    UnreachableError where nobody answers.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(
            "place of the blobs",
            found=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            expected="s3://BUCKET/PREFIX, with nothing else in it",
            remedy=f"credentials belong in {CREDENTIALS}",
        )
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    is_plain_allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in {"1", "true", "yes"}
    if endpoint.startswith("http:") and not is_plain_allowed:
        raise UsageError(
            "endpoint of the blobs",
            found="http, which everybody on the way can read",
            expected="https",
            remedy="set AWS_ENDPOINT_URL to an https address, or AWS_ALLOW_HTTP=true to allow it",
        )
    store = S3Store.from_url(
        f"s3://{parts.netloc}{parts.path.rstrip('/')}",
        config={"endpoint": endpoint} if endpoint else None,
        client_options={
            "allow_http": is_plain_allowed,
            "connect_timeout": timedelta(seconds=_CONNECT_S),
            "timeout": timedelta(seconds=_ANSWER_S),
        },
        retry_config={"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
    )
    blobs = S3Blobs(store, f"s3://{parts.netloc}{parts.path}", copies)
    blobs.check()
    return blobs


class S3Blobs:
    """Implements `swarm.registry.blob_store.BlobStore` on a bucket's prefix.

    Several processes may write there; one registry collects.
    """

    def __init__(
        self,
        store: S3Store,
        address: str,
        copies: BlobCopies,
        stats_for_s: float = _STATS_FOR_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._address, self._copies = store, address, copies
        self._stats_for_s, self._clock = stats_for_s, clock
        self._requests = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="s3")
        self._removals = ThreadPoolExecutor(1, thread_name_prefix="s3-removal")
        self._damaged: dict[Digest, _State] = {}
        self._going: set[Digest] = set()
        self._busy: dict[Digest, tuple[threading.Lock, int]] = {}
        self._guard = threading.Lock()
        self._stats: tuple[float, tuple[int, int]] | None = None

    def check(self) -> None:
        """See that objects can be written, listed and deleted; raise what `connect_s3` says."""
        try:
            obstore.put(self._store, _PROBE, b"swarm", use_multipart=False)
            next(iter(obstore.list(self._store, chunk_size=1)), None)
            obstore.delete(self._store, _PROBE)
        except (BaseError, OSError) as error:
            raise explained(error, self._subject) from error

    def missing(self, blobs: Iterable[Digest]) -> list[Digest]:
        """Return the distinct blobs that are not here or were found damaged, in the given order."""
        wanted = list(dict.fromkeys(blobs))
        states = self._states(wanted)
        return [b for b in wanted if b not in states or self._damaged.get(b) == states[b]]

    def size(self, blob: Digest) -> int:
        """Return blob's size in bytes; NotFoundError if it is not here."""
        return self._present(blob).size_bytes

    def sizes(self, blobs: Iterable[Digest]) -> dict[Digest, int]:
        """Return the sizes of those of the blobs that are here, damaged or not. Many are read from one list,
        which has a thousand in an answer."""
        wanted = set(blobs)
        if len(wanted) < _LISTED_FROM:
            return {blob: state.size_bytes for blob, state in self._states(list(wanted)).items()}
        return {blob: size for blob, size in self._here() if blob in wanted}

    @contextmanager
    def writer(
        self, expected: Digest, size_bytes: int, sender: str = "", offset: int = 0
    ) -> Iterator["S3Writer"]:
        """Yield a writer for a blob of known digest and size; without `commit` nothing is kept but, on this
        disk, what a sender sent of a large blob."""
        with self._copies.writer(digest(expected), size_bytes, sender, offset) as copy:
            yield S3Writer(copy, lambda: self._upload(expected, size_bytes))

    def kept(self, sender: str) -> dict[Digest, int]:
        """Return the blobs that a sender began to send, with the bytes that are on this disk."""
        return self._copies.kept(sender)

    def sweep(self) -> None:
        """Remove what was kept of uploads that nobody went on with for a day."""
        self._copies.sweep()

    def open_verified(self, blob: Digest) -> memoryview:
        """Return blob's bytes, mapped from a local copy; a first time they are downloaded and verified.

        Raises NotFoundError if it is not here, VerificationError if its bytes are not what its name says.
        """
        state = self._present(blob)
        if (view := self._copies.opened(blob, str(state))) is not None:
            return view
        with self._alone(blob):
            state = self._present(blob)
            if (view := self._copies.opened(blob, str(state))) is not None:
                return view
            if self._damaged.get(blob) == state:
                raise self._is_damaged(blob)
            return self._downloaded(blob, state)

    def remove(self, blob: Digest) -> None:
        """Let blob be gone from now on; its object is deleted soon, by a thread of its own."""
        self._going.add(digest(blob))
        self._copies.drop(blob)
        self._removals.submit(self._delete, blob)

    def digests(self) -> Iterator[Digest]:
        """Yield the digests of all blobs here, in no order."""
        return (blob for blob, _ in self._here())

    def stats(self) -> tuple[int, int]:
        """Return the number of blobs here and their bytes in all; they are counted at most twice a minute."""
        now = self._clock()
        if self._stats is None or now >= self._stats[0] + self._stats_for_s:
            sizes = [size for _, size in self._here()]
            self._stats = now, (len(sizes), sum(sizes))
        return self._stats[1]

    def free_bytes(self) -> int:
        """Return how many bytes the next blob may have: what its local copy may have."""
        return self._copies.free_bytes()

    def settle(self) -> None:
        """Wait until what was removed is deleted, or could not be."""
        self._removals.submit(lambda: None).result()

    def close(self) -> None:
        """Finish the removal that is under way, and end the threads; what was still to be removed is here for
        whoever opens the store next, and for its next collection."""
        self._removals.shutdown(cancel_futures=True)
        self._requests.shutdown()

    def _upload(self, blob: Digest, size_bytes: int) -> None:
        with self._alone(blob):
            self._going.discard(blob)
            try:
                put = obstore.put(
                    self._store,
                    _key(blob),
                    self._copies.path(blob),
                    chunk_size=PART_BYTES,
                    max_concurrency=_PARTS_AT_ONCE,
                )
            except (BaseError, OSError) as error:
                raise self._away(error) from error
            self._damaged.pop(blob, None)
            self._copies.note(blob, size_bytes, str(_State(size_bytes, put["e_tag"] or "")))

    def _downloaded(self, blob: Digest, state: _State) -> memoryview:
        try:
            with self._copies.writer(blob, state.size_bytes) as copy:
                for part in self._parts(blob, state):
                    copy.write(part)
                copy.commit()
                self._copies.note(blob, state.size_bytes, str(state))
            view = self._copies.opened(blob, str(state))
        except VerificationError as error:
            self._damaged[blob] = state
            raise self._is_damaged(blob) from error
        if view is None:
            raise self._moved_on(blob)
        return view

    def _parts(self, blob: Digest, state: _State) -> Iterator[memoryview]:
        """Yield an object's bytes in order, some ranges being asked for ahead."""
        starts = iter(range(0, state.size_bytes, PART_BYTES))
        ahead: deque[Future[memoryview]] = deque()
        try:
            for start in islice(starts, _PARTS_AT_ONCE):
                ahead.append(self._requests.submit(self._part, blob, state, start))
            while ahead:
                part = ahead.popleft().result()
                for start in islice(starts, 1):
                    ahead.append(self._requests.submit(self._part, blob, state, start))
                yield part
        finally:
            for future in ahead:
                future.cancel()

    def _part(self, blob: Digest, state: _State, start: int) -> memoryview:
        end = min(start + PART_BYTES, state.size_bytes)
        try:
            with self._outages_named():
                options: GetOptions = {"range": (start, end)}
                if state.e_tag:
                    options["if_match"] = state.e_tag
                return memoryview(obstore.get(self._store, _key(blob), options=options).bytes())
        except FileNotFoundError:
            raise _not_here(blob) from None
        except PreconditionError:
            raise self._moved_on(blob) from None

    def _present(self, blob: Digest) -> _State:
        state = self._states([blob]).get(blob)
        if state is None:
            raise _not_here(blob)
        return state

    def _states(self, blobs: list[Digest]) -> dict[Digest, _State]:
        states = self._requests.map if len(blobs) > 1 else map  # one needs no thread of its own
        found = list(states(self._state, blobs))
        return {blob: state for blob, state in zip(blobs, found, strict=True) if state is not None}

    def _state(self, blob: Digest) -> _State | None:
        key = _key(digest(blob))
        if blob in self._going:
            return None
        try:
            with self._outages_named():
                head = obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        return _State(head["size"], head["e_tag"] or "")

    def _listed(self) -> Iterator[tuple[Digest, int]]:
        with self._outages_named():
            for batch in obstore.list(self._store):
                for each in batch:
                    folder, _, name = each["path"].rpartition("/")
                    try:
                        blob = digest(name)
                    except InvalidInputError:
                        continue
                    if folder == blob[:2]:
                        yield blob, each["size"]

    def _here(self) -> Iterator[tuple[Digest, int]]:
        """Yield the blobs that nobody removed, and their sizes. A list may be older than the end of a
        removal, so what was going when it was asked for counts as gone."""
        going = self._going.copy()
        for blob, size_bytes in self._listed():
            if blob not in going and blob not in self._going:
                yield blob, size_bytes

    def _delete(self, blob: Digest) -> None:
        with self._alone(blob):
            if blob not in self._going:
                return  # published again meanwhile
            try:
                with self._outages_named():
                    obstore.delete(self._store, _key(blob))
            except FileNotFoundError:
                pass
            except SwarmError as error:
                _log.warning("blob.not_removed", blob=blob, reason=str(error))
            finally:
                self._going.discard(blob)

    @contextmanager
    def _alone(self, blob: Digest) -> Iterator[None]:
        """Let one thread at a time change, remove or download a blob."""
        with self._guard:
            lock, users = self._busy.get(blob, (threading.Lock(), 0))
            self._busy[blob] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                users = self._busy[blob][1] - 1
                if users:
                    self._busy[blob] = lock, users
                else:
                    del self._busy[blob]

    @contextmanager
    def _outages_named(self) -> Iterator[None]:
        """Let what an object's absence or change raises pass, and name everything else."""
        try:
            yield
        except (FileNotFoundError, PreconditionError) as error:
            if isinstance(explained(error, self._subject), NotFoundError):
                raise self._away(error) from error
            raise
        except (BaseError, OSError) as error:
            raise self._away(error) from error

    def _away(self, error: Exception) -> UnreachableError:
        """Return what failed as an outage: that is what it is to whoever asks the registry."""
        told = explained(error, self._subject)
        return UnreachableError(told.subject, found=told.found, expected=told.expected, remedy=told.remedy)

    @property
    def _subject(self) -> str:
        return f"blobs at {self._address}"

    def _is_damaged(self, blob: Digest) -> VerificationError:
        return VerificationError(
            f"blob {blob[:12]}",
            found=f"other bytes at {self._address}",
            expected=f"bytes with digest {blob[:12]}",
            remedy="its owner can publish it again",
        )

    def _moved_on(self, blob: Digest) -> UnreachableError:
        return UnreachableError(
            f"blob {blob[:12]} at {self._address}",
            found="an object that changed while it was read",
            expected="one that stays",
            remedy="ask again",
        )


class S3Writer:
    """One blob on its way in: a local file that is uploaded once it is what was promised."""

    def __init__(self, copy: BlobSink, upload: Callable[[], None]) -> None:
        self._copy, self._upload = copy, upload

    def write(self, chunk: bytes | memoryview) -> None:
        """Append chunk; VerificationError beyond the promised size, ExhaustedError on a full disk."""
        self._copy.write(chunk)

    def commit(self) -> None:
        """Upload the bytes; VerificationError, and nothing sent, unless they are what their name promises."""
        self._copy.commit()
        self._upload()


def _key(blob: Digest) -> str:
    return f"{blob[:2]}/{blob}"


def _not_here(blob: Digest) -> NotFoundError:
    return NotFoundError(f"blob {blob[:12]}", found="nothing under this digest", expected="a stored blob")
