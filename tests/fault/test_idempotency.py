"""Whatever is sent again, at once or later, happens once: the store and every folder stay as they were."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from coordinator.members import Members
from swarm.domain.errors import SwarmError, UnauthenticatedError, UnreachableError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.members import Tombstone
from swarm.registry.redis_store import RedisStore, connect_redis
from swarm.rpc import methods as m
from swarm.trust.proofs import renewal_request
from swarm.trust.statements import read_statement, sign_statement
from swarm.trust.tokens import JoinToken
from tests.support.coordinator import BackEnd, SmallNode, back_end, until_heard

pytestmark = pytest.mark.asyncio(loop_scope="module")
Act = Callable[[], Awaitable[Any]]

TRIED = {
    m.RENEW_CERTIFICATE, m.LEAVE, m.REVOKE_NODE, m.CREATE_TOKEN, m.CREATE_BEARER, m.REVOKE_TOKEN,
    m.CONTRIBUTE, m.ROLLBACK, m.FIT, m.PUBLISH, m.COMMIT, m.ANNOUNCE, m.WITHDRAW,
}  # fmt: skip
"""The acts that are tried below."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path_factory.mktemp("swarm")) as running:
        yield running


async def state(swarm: BackEnd) -> dict[str, str]:
    """Everything that the services keep: Redis (without times to live), and their folders' files.

    Claims are left out: they say who may be in the middle of a publish, and end by themselves. So are the
    withdrawals in the registry's journal: a revocation's reach it within two seconds, from Redis.
    """
    store = connect_redis(swarm.redis_url, SwarmId("plants"))
    found = {
        f"redis {key.decode()}": hashlib.sha256(payload).hexdigest() async for key, payload, _ in store.dump()
    }
    await store.close()
    for part in (swarm.home.coordinator, swarm.home.registry):
        for path in part.rglob("*"):
            if path.name == "claims.jsonl":
                continue
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # being written, or a folder
                data = path.read_bytes()
                if path.name == "commits.jsonl":
                    data = b"".join(line for line in data.splitlines() if b'"kind": "withdraw"' not in line)
                found[str(path)] = hashlib.sha256(data).hexdigest()
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


async def settled(swarm: BackEnd) -> dict[str, str]:
    """The state once events that are still on their way have been followed."""
    last = await state(swarm)
    while True:
        await asyncio.sleep(0.1)
        now = await state(swarm)
        if now == last:
            return now
        last = now


async def once(swarm: BackEnd, act: Act, *, gate_after: int = 0) -> Any:
    """Send act four times at once and then again; return the one answer that it had.

    `gate_after`: the gate version that follows from the act after its answer, where one does.
    """
    before = await settled(swarm)
    answers = await asyncio.gather(*(act() for _ in range(4)))
    assert all(answer == answers[0] for answer in answers), answers
    while await versions(swarm) < gate_after:
        await asyncio.sleep(0.02)
    after = await settled(swarm)
    assert changes(before, after)
    assert await act() == answers[0]
    assert changes(after, await settled(swarm)) == []
    return answers[0]


async def uses_left(swarm: BackEnd, token: JoinToken) -> int:
    return {t.id: t.uses_left for t in await (await swarm.operator()).tokens()}[token.id]


async def versions(swarm: BackEnd) -> int:
    return (await (await swarm.operator()).history()).current


TRIED_ELSEWHERE = {
    m.MAKE_PROFILE,
    m.RUN_FEDERATION,
    m.PROPOSE,
    m.REPORT_GROWTH,
    m.CANCEL_GROWTH,
    m.GROWTH_POLICY,
}
"""Profiles in test_coordinator_answers.py, federated runs in test_federation.py, growth in
test_coordinator_growth.py and test_rpc_growth.py."""


async def test_every_act_of_the_wire_is_tried_here() -> None:
    """A new act has to be added below."""
    acts = {each for each in m.METHODS if "idempotency_key" in _fields(each)} | {m.CONTRIBUTE, m.PUBLISH}
    on_own_machine = {each for each in acts if each.roles == m.SAME_MACHINE}
    assert acts - on_own_machine == TRIED | TRIED_ELSEWHERE


def _fields(method: m.AnyMethod) -> set[str]:
    return set() if method.request is bytes else {f.name for f in method.request.DESCRIPTOR.fields}


async def test_a_join_sent_again_admits_one_member_and_uses_the_token_once(swarm: BackEnd) -> None:
    token = await swarm.new_token(uses=3)
    body = swarm.request("joiner", token.text)

    async def act() -> Any:
        return await asyncio.to_thread(swarm.door(swarm.ca_pem).join, body)

    await once(swarm, act)
    assert await uses_left(swarm, token) == 2


@pytest.mark.parametrize("point", ["before the record", "after the record", "before the answer is kept"])
async def test_a_coordinator_that_falls_while_it_admits_does_not_lock_the_joiner_out(
    swarm: BackEnd, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The token is one-use: the same joiner has to get in with it, and nobody else."""
    token = await swarm.new_token()
    name = point.replace(" ", "-")
    body = swarm.request(name, token.text)
    register, remember = Members.register, RedisStore.remember
    falls = [True]

    async def falling_register(self: Members, member: NodeId, envelope: bytes) -> bool:
        if point == "after the record":
            await register(self, member, envelope)
        raise UnreachableError("coordinator", found="a fall")

    async def falling_remember(self: RedisStore, key: str, outcome: str) -> str:
        if key.startswith("join:") and falls:
            raise UnreachableError("coordinator", found="a fall")
        return await remember(self, key, outcome)

    if point == "before the answer is kept":
        monkeypatch.setattr(RedisStore, "remember", falling_remember)
    else:
        monkeypatch.setattr(Members, "register", falling_register)
    with pytest.raises(SwarmError, match="a fall"):
        await asyncio.to_thread(swarm.door(swarm.ca_pem).join, body)
    monkeypatch.undo()
    other = swarm.request(f"thief-{name}"[:40].strip("-"), token.text)
    with pytest.raises(UnauthenticatedError, match="used already"):
        await asyncio.to_thread(swarm.door(swarm.ca_pem).join, other)
    answer = await asyncio.to_thread(swarm.door(swarm.ca_pem).join, body)
    assert "BEGIN CERTIFICATE" in answer["certificate_pem"]
    assert await uses_left(swarm, token) == 0


async def test_a_renewal_by_proof_sent_again_changes_nothing(swarm: BackEnd) -> None:
    identity = await swarm.join("sleeper")
    body = renewal_request(identity.required_signer(), identity.id, identity.renewal_csr(), datetime.now(UTC))
    before = await settled(swarm)
    for _ in range(3):
        answer = await asyncio.to_thread(swarm.door(swarm.ca_pem).renew, body)
        assert "BEGIN CERTIFICATE" in answer["certificate_pem"]
    assert changes(before, await settled(swarm)) == []


async def test_tokens_and_certificates_asked_for_again_are_the_same(swarm: BackEnd) -> None:
    operator = await swarm.operator()
    _, view = await once(swarm, lambda: operator.create_token("node", 2, 3600.0, key="token"))
    await once(swarm, lambda: operator.revoke_token(view.id, key="revoke"))
    _, held = await once(swarm, lambda: operator.create_bearer(NodeId("app"), 3600.0, key="bearer"))
    await once(swarm, lambda: operator.revoke_token(held.id, key="revoke the bearer's"))
    identity = await swarm.join("renewer")
    node = await swarm.connect(SmallNode(swarm, identity, ("a",)))
    csr = identity.renewal_csr()
    await once(swarm, lambda: node.coordinator.renew_certificate(csr, "renew"))
    # It stays connected: the end of its lease would be a change beside those of the next test.


async def test_publishing_committing_contributing_and_the_operators_acts_happen_once(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    operator = await swarm.operator()
    data = b"weights of somebody" * 1000
    blob = ada.verified.cache.put(data)
    await once(swarm, lambda: ada.registry.publish_blob(blob, data))

    manifest = await _unpublished(ada)
    head = await once(swarm, lambda: ada.registry.commit(manifest, ada.fence, "commit"))
    ada.served.append(head.manifest)
    await once(swarm, lambda: ada.registry.announce([manifest], ada.fence, "announce"))
    assert [h.version for h in await ada.registry.heads("ada")] == [1]

    envelope, arrays = await ada.contribution()
    await once(swarm, lambda: ada.coordinator.contribute(envelope, arrays, ada.fence, "contribute"))
    assert await versions(swarm) == 1
    await bob.train()
    assert await versions(swarm) == 2

    signed = await once(swarm, lambda: operator.rollback(1, key="rollback"))
    assert read_statement(signed, GateStatement).value.version == 3 == await versions(swarm)
    await once(swarm, lambda: operator.fit(key="fit"))
    assert await versions(swarm) == 4

    tombstone = sign_statement(
        Tombstone(swarm=SwarmId("plants"), kind="expert", id=ada.expert, reason="", created_at=1.0),
        ada.identity.required_signer(),
    )
    await once(swarm, lambda: ada.registry.withdraw(tombstone, ada.fence, "withdraw"), gate_after=5)
    assert [h.expert for h in await ada.registry.heads()] == [bob.expert]

    await once(swarm, lambda: operator.revoke_node(NodeId("bob"), "lost", key="revoke-bob"))
    kinds = [(e.kind, dict(e.fields).get("node")) async for e in operator.events(limit=0)]
    assert kinds.count(("node.revoked", "bob")) == 1 == kinds.count(("node.left", "bob"))

    before = await settled(swarm)
    answers = await asyncio.gather(*(ada.coordinator.leave("done", "leave") for _ in range(3)))
    assert len(set(answers)) == 1 and changes(before, after := await settled(swarm))
    with pytest.raises(UnauthenticatedError, match="revoked"):
        await ada.coordinator.leave("done", "leave")
    assert changes(after, await settled(swarm)) == []


async def test_the_same_key_for_another_request_never_acts_as_the_first(swarm: BackEnd) -> None:
    """Keys belong to one caller and one kind of act: a peer's key is no way to another's outcome."""
    cyd, dan = await swarm.node("cyd", "a"), await swarm.node("dan", "b")
    first = await cyd.coordinator.renew_certificate(cyd.identity.renewal_csr(), "shared")
    assert await dan.coordinator.renew_certificate(dan.identity.renewal_csr(), "shared") != first
    for node in (cyd, dan):
        await node.disconnect()


async def test_a_node_that_connects_again_changes_its_lease_alone(swarm: BackEnd) -> None:
    eve = await swarm.node("eve", "ab")
    await eve.publish()
    await eve.disconnect()
    before = await settled(swarm)
    for number in (1, 2):
        eve.activity = f"connected {number} times"
        await swarm.connect(eve)
        await until_heard(eve)
        await eve.disconnect()
    found = changes(before, await settled(swarm))
    of_files = {Path(name).parent.name for name in found if name.startswith("/")}
    of_redis = {name.split()[-1].split(":")[0] for name in found if not name.startswith("/")}
    assert of_files <= {"fences"} and of_redis <= {"fence", "lease", "leased", "events"}


async def _unpublished(node: SmallNode) -> bytes:
    """A signed first manifest of a node whose blobs are there, and which nobody has committed."""
    kept: list[bytes] = []
    commit = node.registry.commit

    async def keep(envelope: bytes, *_: Any) -> Any:
        kept.append(envelope)
        raise LookupError

    node.registry.commit = keep  # type: ignore[method-assign]
    with pytest.raises(LookupError):
        await node.publish()
    node.registry.commit = commit  # type: ignore[method-assign]
    return kept[0]
