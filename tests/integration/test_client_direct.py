"""A client in direct mode: the coordinator's answers without it, over real TLS to the owners' listeners."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import structlog

from swarm.client import AsyncClient
from swarm.domain.errors import InvalidInputError, NotFoundError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId
from swarm.domain.inference import Answer, ExpertAnswer, ExpertRequest
from swarm.rpc.server import RpcServer, create_server
from swarm.rpc.servicers import expert_service
from tests.support.coordinator import BackEnd, SmallNode, back_end, samples

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROWS = np.concatenate([samples(name, 5, 31) for name in "abcd"])


@pytest.fixture(autouse=True, scope="module")
def logs_as_before() -> Iterator[None]:
    """A client hands this process's log over to `logging`: not for other tests."""
    yield
    structlog.reset_defaults()


class Listener:
    """A node's listener, which counts the calls that come to it rather than over the stream."""

    def __init__(self, node: SmallNode) -> None:
        self.node, self.calls = node, 0

    async def predict(self, request: ExpertRequest) -> list[ExpertAnswer]:
        self.calls += 1
        absent = [task.expert for task in request.tasks if task.manifest not in self.node.served]
        if absent:
            raise NotFoundError(absent[0], found="no expert at this version on this node")
        return await self.node.predict(request)

    async def try_gate(self, *_: Any) -> Any:
        raise NotImplementedError

    async def survey(self, *_: Any) -> Any:
        raise NotImplementedError


class Small:
    """A swarm whose nodes ada (a, b) and bob (c, d) listen and whose node dan (a, c) does not."""

    def __init__(self, back_end: BackEnd, stack: AsyncExitStack, folder: Path) -> None:
        self.back_end, self.stack, self.folder = back_end, stack, folder
        self.nodes: dict[str, SmallNode] = {}
        self.listeners: dict[str, Listener] = {}
        self.servers: dict[str, RpcServer] = {}

    async def plant(
        self, name: str, classes: str, *, listens: bool = True, trains: bool = True, **options: Any
    ) -> None:
        """Let a node join, train, and be routed to."""
        identity = await self.back_end.join(name)
        node = SmallNode(self.back_end, identity, tuple(classes), **options)
        if listens:
            listener = self.listeners[name] = Listener(node)
            server = self.servers[name] = create_server(
                identity.folder, lambda other: node.keyring.is_revoked(other), [expert_service(listener)]
            )
            node.advertise = f"127.0.0.1:{server.add_port('127.0.0.1:0')}"
            await server.start()
            self.stack.push_async_callback(server.stop, 0)
        self.nodes[name] = await self.back_end.connect(node)
        if trains:
            await node.train()

    async def kill(self, name: str) -> None:
        """End a node at once."""
        await self.servers[name].stop(0)
        await self.nodes[name].disconnect()

    def client(self, cache: str, **options: Any) -> AsyncClient:
        return AsyncClient(
            f"127.0.0.1:{self.back_end.endpoints.port}",
            self.back_end.home.root,
            registry=f"127.0.0.1:{self.back_end.registry_port}",
            cache=self.folder / cache,
            **options,
        )

    def calls(self) -> dict[str, int]:
        return {name: listener.calls for name, listener in self.listeners.items()}

    async def gate(self) -> GateStatement:
        operator = await self.back_end.operator()
        keyring = next(iter(self.nodes.values())).keyring
        return keyring.open(await operator.gate(), GateStatement).value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Small]:
    folder = tmp_path_factory.mktemp("direct")
    async with back_end(folder) as services, AsyncExitStack() as stack:
        small = Small(services, stack, folder)
        await small.plant("ada", "ab", sums="exact", corrects=True)
        await small.plant("bob", "cd", sums="compact", corrects=True)
        yield small


async def until_so(ask: Callable[[], Any]) -> Any:
    """Ask until the answer is a true one."""
    async with asyncio.timeout(30):
        while not (found := await ask()):
            await asyncio.sleep(0.05)
    return found


def alike(one: Answer, other: Answer) -> bool:
    """Say whether two answers are of the same experts by the same gate, to float32 rounding."""
    if one.gate_version != other.gate_version:
        return False
    assert np.abs(one.probabilities - other.probabilities).max() <= 1e-6
    assert np.abs(one.confidence - other.confidence).max() <= 1e-6
    far, also = one.out_of_distribution, other.out_of_distribution
    assert (far is None and also is None) or np.allclose(far, also, rtol=1e-4)  # type: ignore[arg-type]
    return (one.sources, one.combination, one.class_names, one.degraded, one.calibration) == (
        other.sources, other.combination, other.class_names, other.degraded, other.calibration
    )  # fmt: skip


async def test_direct_answers_are_the_coordinators_for_every_combination(small: Small) -> None:
    gate = await small.gate()
    ways = [{"combination": each.name, "top_k": k} for each in gate.combinations for k in (0, 1, 2)]
    ways += [{}, {"uniform": True}, {"owners": ("bob",)}]
    async with small.client("a", direct=True) as direct, small.client("b") as plain:
        asked = {"ada": 0, "bob": 0}
        for way in ways:
            before = small.calls()
            found = await direct.predict(ROWS, explain=True, **way)
            asked = {name: asked[name] + count - before[name] for name, count in small.calls().items()}
            assert not any(found.degraded)

            async def same(way: dict[str, Any] = way) -> bool:
                # The manifest of the gate's root comes a moment after the gate.
                found = await direct.predict(ROWS, explain=True, **way)
                return alike(found, await plain.predict(ROWS, explain=True, **way))

            await until_so(same)
    assert {each.name for each in gate.combinations} >= {"root", "gate", "corrected", "prototypes"}
    assert all(asked.values()), "the owners were asked at their own listeners"


@pytest.mark.parametrize("direct", [True, False])
async def test_a_client_says_how_sure_answers_are_and_which_rows_nobody_knows(
    small: Small, direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    midway = (samples("a", 1, 5) + samples("c", 1, 5)) / 2
    inputs = np.concatenate([samples("a", 4, 4), midway, np.full_like(midway, 60)])
    async with small.client("a", direct=direct) as client:
        plain = await client.predict(inputs)
        assert plain.calibration == (await small.gate()).combination().calibration > 0
        assert np.array_equal(plain.confidence, plain.probabilities.max(axis=1))
        assert plain.out_of_distribution is not None and plain.out_of_distribution[5] > 5
        least = float((plain.confidence[4] + plain.confidence[:4].min()) / 2)
        monkeypatch.setattr("swarm.client.asynchronous.rows_at_once", lambda *_, **__: 2)
        parts = await client.predict(inputs, min_confidence=least)
        assert parts.unknown[:5] == (False,) * 4 + (True,) and parts.labels[4] == ""
        assert not parts.probabilities[4].any() and parts.calibration == plain.calibration
        assert np.allclose(parts.confidence, plain.confidence, atol=1e-6)
        assert parts.out_of_distribution is not None
        assert np.allclose(parts.out_of_distribution, plain.out_of_distribution, rtol=1e-4)
        with pytest.raises(InvalidInputError, match="min_confidence"):
            await client.predict(inputs, min_confidence=1.5)


async def test_a_newer_gate_is_followed_and_a_revoked_owner_is_not_asked(small: Small) -> None:
    async with small.client("a", direct=True) as direct:
        first = await direct.predict(ROWS, uniform=True)
        await small.plant("eve", "bc")

        async def eves() -> bool:
            before = small.calls()["eve"]
            answer = await direct.predict(ROWS, uniform=True)
            return answer.gate_version > first.gate_version and small.calls()["eve"] > before

        await until_so(eves)
        operator = await small.back_end.operator()
        await operator.revoke_node(NodeId("eve"), "a test")
        version = (await operator.status()).gate_version

        async def followed() -> bool:
            return (await direct.predict(ROWS, uniform=True)).gate_version >= version

        await until_so(followed)
        asked = small.calls()
        answer = await direct.predict(ROWS, uniform=True, explain=True)
        assert small.calls()["eve"] == asked["eve"] and small.calls()["ada"] > asked["ada"]
        assert "eve" not in {source.owner for row in answer.sources for source in row}


async def test_an_owner_that_does_not_listen_is_asked_by_the_coordinator(small: Small) -> None:
    await small.plant("dan", "ac", listens=False, share="serve-only")
    async with small.client("a", direct=True) as direct, small.client("b") as plain:

        async def dans() -> bool:
            found = await direct.predict(ROWS, explain=True, uniform=True)
            meant = await plain.predict(ROWS, explain=True, uniform=True)
            return alike(found, meant) and "dan" in {each.served_by for row in found.sources for each in row}

        await until_so(dans)


async def test_without_the_coordinator_a_client_goes_on_by_what_it_kept(small: Small) -> None:
    async with small.client("a", direct=True) as direct:
        whole = await direct.predict(ROWS, combination="gate", top_k=1, owners=("ada", "bob"), explain=True)
    await small.back_end.stop_coordinator()
    async with small.client("a", direct=True) as direct:
        again = await direct.predict(ROWS, combination="gate", top_k=1, owners=("ada", "bob"), explain=True)
        assert alike(again, whole)
        asked = small.calls()
        assert (await direct.predict(ROWS, combination="root")).gate_version == whole.gate_version
        assert small.calls() == asked, "the root needs nobody"
        small.nodes["bob"].fails = UnreachableError("bob")
        degraded = await direct.predict(ROWS, combination="gate", top_k=1)
        assert any(degraded.degraded) and not all(degraded.degraded)
        small.nodes["ada"].served += small.nodes["bob"].served
        stood_in = await direct.predict(ROWS, combination="gate", top_k=1, owners=("bob",), explain=True)
        assert not any(stood_in.degraded)
        assert {(each.owner, each.served_by) for row in stood_in.sources for each in row} == {("bob", "ada")}
        with pytest.raises(NotFoundError, match="nobody"):
            await direct.predict(ROWS, owners=("nobody",))
    kept = small.folder / "a" / "gate.json"
    envelope = json.loads(kept.read_bytes())
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    kept.write_text(json.dumps(envelope))
    async with small.client("a", direct=True, timeout_s=3.0) as direct:
        with pytest.raises(UnreachableError, match="coordinator at"):
            await direct.predict(ROWS)
