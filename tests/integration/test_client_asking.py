"""A client's calls to the coordinator over real TLS: batches, retries, deadlines, credentials, errors."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from swarm.cli.app import build
from swarm.client import AsyncClient, Client, parts
from swarm.client.retrying import until_answered
from swarm.domain.errors import (
    ConflictError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    ShapeMismatchError,
    SwarmError,
    UnauthenticatedError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.inference import MAX_QUERY_ROWS, Answer, Query
from swarm.rpc.servicers import inference_service, membership_service
from swarm.trust.identity import Identity, save_identity
from swarm.trust.statements import sign_statement
from tests.support.rpc import Inference, Membership, found_now, serving
from tests.support.trust import Founded, specification

ADDRESS = "127.0.0.1:1"
"""Where nobody listens."""


@pytest.fixture(autouse=True, scope="module")
def logs_as_before() -> Iterator[None]:
    """A client hands this process's log over to `logging`: not for other tests."""
    yield
    structlog.reset_defaults()


class Echo(Inference):
    """Answers with each row's first value, and with the refusals it was given first."""

    def __init__(self) -> None:
        self.refusals: list[SwarmError] = []
        self.asked: list[Query] = []
        self.gate_version = 3

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        self.asked.append(query)
        if self.refusals:
            raise self.refusals.pop(0)
        if query.gate_version not in (0, self.gate_version):
            raise NotFoundError(f"gate {query.gate_version}", found="its statement only")
        first = np.asarray(query.inputs[:, 0], np.float32)
        answer = await super().predict(query, timeout_s)
        return replace(
            answer,
            probabilities=np.stack([first, 1 - first], axis=1),
            confidence=np.empty(0, np.float32),  # that of the probabilities
            gate_version=self.gate_version,
            flops_per_query=1.0,
        )


class Door(Membership):
    """Tells the signed specification."""

    def __init__(self, swarm: Founded) -> None:
        super().__init__()
        self._envelope = sign_statement(specification(), swarm.coordinator_signer)

    async def specification(self, version: int) -> bytes:
        return self._envelope


class Running:
    """A coordinator's services, and a client's home beside it."""

    def __init__(self, folder: Path) -> None:
        self.swarm = found_now(folder / "swarm")
        self.echo = Echo()
        self.home = folder / "app"
        self.address = ""
        self.revoked: set[str] = set()

    def identity(self, coordinator: str) -> Identity:
        member = self.swarm.member("app", role="client", now=datetime.now(UTC))
        fields = {name: getattr(member, name) for name in member.__dataclass_fields__ if name != "folder"}
        return save_identity(self.home / "identity", **(fields | {"coordinator": coordinator}))

    @asynccontextmanager
    async def serve(self, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
        services = [inference_service(self.echo), membership_service(Door(self.swarm))]
        async with serving(
            self.swarm.coordinator, services, revoked=self.revoked.__contains__, address=address
        ) as (_, found):
            yield found


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    found = Running(tmp_path)
    async with found.serve() as address:
        found.address = address
        found.identity(address)
        yield found


@contextmanager
def in_a_thread(found: Running) -> Iterator[None]:
    """Serve from a thread, as another process would: the present one is free to block."""
    up, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with found.serve() as address:
            found.address = address
            found.identity(address)
            up.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert up.wait(30)
    try:
        yield
    finally:
        over.set()
        thread.join()


def rows(count: int) -> np.ndarray:
    return np.linspace(0, 1, 4 * count, dtype=np.float32).reshape(count, 4)


def test_the_synchronous_client_answers_by_a_home_alone(tmp_path: Path) -> None:
    found = Running(tmp_path)
    with in_a_thread(found):
        with Client(credentials=found.home) as client:
            answer = client.predict(rows(3), explain=True, top_k=2)
            one = client.predict(rows(3)[1])
            profile = client.make_profile(rows(2), ["beech", "élm"])
        with Client(found.address, found.home / "identity") as client:
            assert len(client.predict(rows(2)).probabilities) == 2
        assert answer.class_names == ("beech", "élm")
        assert np.array_equal(answer.probabilities[:, 0], rows(3)[:, 0])
        assert one.probabilities.shape == (1, 2) and profile.examples == 2
        assert (found.echo.asked[0].top_k, found.echo.asked[0].explain) == (2, True)
        with pytest.raises(UnreachableError, match="closed"):
            client.predict(rows(1))


async def test_a_large_array_is_cut_and_comes_back_in_its_order(running: Running) -> None:
    array = rows(2 * MAX_QUERY_ROWS + 5)
    async with AsyncClient(credentials=running.home) as client:
        answer = await client.predict(array)
        assert sorted(len(query.inputs) for query in running.echo.asked) == [5, 4096, 4096]
        assert np.array_equal(answer.probabilities[:, 0], array[:, 0])
        assert len(answer.degraded) == len(array) and answer.flops_per_query == 1.0
        running.echo.asked.clear()
        await client.predict(array[:600], explain=True)
        assert sorted(len(query.inputs) for query in running.echo.asked) == [88, 512]


async def test_all_rows_are_answered_by_one_gate_also_where_it_changes_meanwhile(running: Running) -> None:
    async with AsyncClient(credentials=running.home) as client:
        array = rows(MAX_QUERY_ROWS + 5)

        class Changing(Echo):
            async def predict(self, query: Query, timeout_s: float) -> Answer:
                answer = await super().predict(query, timeout_s)
                self.gate_version = 4  # after the first part, for good
                return answer

        changing = Changing()
        running.echo.predict = changing.predict  # type: ignore[method-assign]
        answer = await client.predict(array)
        assert answer.gate_version == 4 and len(answer.probabilities) == len(array)
        assert [query.gate_version for query in changing.asked] == [0, 3, 0, 4]
        with pytest.raises(NotFoundError, match="gate 3"):
            await client.predict(array, gate_version=3)


async def test_what_may_pass_is_asked_again_and_what_cannot_is_not(running: Running) -> None:
    async with AsyncClient(credentials=running.home) as client:
        running.echo.refusals = [NotReadyError("gate"), UnreachableError("owner"), NotReadyError("gate")]
        assert len((await client.predict(rows(1))).probabilities) == 1
        assert len(running.echo.asked) == 4
        running.echo.refusals = [InvalidInputError("top_k")]
        with pytest.raises(InvalidInputError):
            await client.predict(rows(1))
        assert len(running.echo.asked) == 5


async def test_nothing_is_asked_beyond_the_deadline_and_the_last_error_is_told(running: Running) -> None:
    async with AsyncClient(credentials=running.home) as client:
        await client.predict(rows(1))
        running.echo.refusals = [NotReadyError("gate", found="none yet")] * 1000
        with pytest.raises(NotReadyError, match="none yet") as caught:
            await client.predict(rows(1), timeout_s=3)
        assert "asked" in caught.value.__notes__[0]
    lefts: list[float] = []

    async def slow(left: float) -> None:
        lefts.append(left)
        await asyncio.sleep(left if len(lefts) == 3 else 0)
        raise UnreachableError(f"attempt {len(lefts)}")

    with pytest.raises(UnreachableError, match="attempt 3"):
        await until_answered(slow, time.monotonic() + 2)
    assert min(lefts) > 0 and lefts == sorted(lefts, reverse=True)
    with pytest.raises(DeadlineError, match="no time left"):
        await until_answered(slow, time.monotonic() - 1)
    assert len(lefts) == 3


async def test_a_coordinator_that_comes_back_within_the_deadline_answers(tmp_path: Path) -> None:
    found = Running(tmp_path)
    async with found.serve() as address:
        found.identity(address)
    async with AsyncClient(credentials=found.home) as client:
        asked = asyncio.create_task(client.predict(rows(2), timeout_s=30))
        with pytest.raises(UnreachableError):
            await client.predict(rows(2), timeout_s=0.2)
        async with found.serve(address):
            assert len((await asked).probabilities) == 2


async def test_errors_name_what_is_wrong(running: Running, tmp_path: Path) -> None:
    async with AsyncClient(credentials=running.home) as client:
        with pytest.raises(ShapeMismatchError, match=r"\[B, 4\]"):
            await client.predict(np.zeros((2, 5), np.float32))
        with pytest.raises(InvalidInputError, match="NaN"):
            await client.predict(np.full((2, 4), np.nan))
        running.revoked.add("app")
        with pytest.raises(UnauthenticatedError, match="revoked"):
            await client.predict(rows(1))
    with pytest.raises(NotFoundError, match="swarm join"):
        AsyncClient(credentials=tmp_path / "nowhere")
    async with AsyncClient(ADDRESS, running.home) as client:
        with pytest.raises(UnreachableError, match="nobody listens"):
            await client.predict(rows(1), timeout_s=3)


async def test_an_earlier_coordinator_answers_without_what_it_does_not_know(running: Running) -> None:
    """It takes no notice of `min_confidence`."""
    array = np.array([[0.5, 0, 0, 0], [0.9, 0, 0, 0]], np.float32)
    async with AsyncClient(credentials=running.home) as client:
        answer = await client.predict(array, min_confidence=0.6)
        assert answer.unknown == (True, False) and answer.labels == ("", "beech")
        assert answer.probabilities[0].tolist() == [0, 0] and answer.confidence[0] == 0.5


def test_an_answer_that_does_not_say_what_it_came_from_is_not_saved(tmp_path: Path) -> None:
    found = Running(tmp_path)
    with in_a_thread(found):
        np.save(tmp_path / "x.npy", rows(2))
        file = tmp_path / "answer.json"
        words = ["predict", str(tmp_path / "x.npy"), "--save", str(file), "--home", str(found.home)]
        done = CliRunner().invoke(build(), words)
    assert isinstance(done.exception, VerificationError), done.exception
    assert "older" in done.exception.found and "leave --save out" in done.exception.remedy
    assert not file.exists()


async def test_parts_of_a_large_answer_keep_the_entropy_of_the_gate(running: Running) -> None:
    class Undecided(Echo):
        async def predict(self, query: Query, timeout_s: float) -> Answer:
            answer = await super().predict(query, timeout_s)
            return replace(answer, gate_entropy=tuple(map(float, answer.probabilities[:, 0])))

    running.echo.predict = Undecided().predict  # type: ignore[method-assign]
    async with AsyncClient(credentials=running.home) as client:
        array = rows(600)
        answer = await client.predict(array, explain=True)
        assert answer.gate_entropy == tuple(map(float, array[:, 0]))


def test_parts_of_several_gates_are_no_answer() -> None:
    one = Answer(
        class_names=("a",), probabilities=np.ones((1, 1), np.float32), gate_version=1, degraded=(False,)
    )
    with pytest.raises(ConflictError, match="gate 1, then gate 2"):
        parts.joined([one, replace(one, gate_version=2)])
