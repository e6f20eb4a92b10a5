"""Somebody else can write Redis: no token that they plant or alter lets anybody in, and the log says why."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from structlog.testing import capture_logs

from swarm.domain.errors import NotFoundError, SwarmError, UnauthenticatedError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import NodeId, SwarmId
from swarm.domain.members import MemberRecord, RevocationList, Role
from swarm.registry.app import RegistryConfig, serve
from swarm.registry.redis_store import connect_redis
from swarm.rpc.channel import open_channel
from swarm.rpc.clients import RegistryClient
from swarm.trust.identity import Identity
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement
from swarm.trust.tokens import JoinToken, new_join_token, secret_hash
from tests.support.coordinator import BackEnd, SmallNode, back_end, refusal, result_or_refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")
PREFIX = "{plants}:"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def swarm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path_factory.mktemp("swarm")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def attacker(swarm: BackEnd) -> AsyncIterator[Redis]:
    """A connection to the swarm's Redis, with all that Redis allows."""
    async with Redis.from_url(swarm.redis_url) as client:
        yield client


async def plant(swarm: BackEnd, role: Role) -> JoinToken:
    """Write a token of one's own as the coordinator writes its own."""
    token = new_join_token(swarm.token.pin)
    store = connect_redis(swarm.redis_url, SwarmId("plants"))
    now = time.time()
    assert await store.add_token(
        token.id, secret_hash(token.secret), role=role, uses=5, expires_at=now + 3600, created_at=now
    )
    await store.close()
    return token


async def turned_away(swarm: BackEnd, name: str, token: JoinToken, role: Role = "node") -> dict[str, Any]:
    """Try to join at the join port, in vain; return the line of the audit log."""
    door = swarm.door(swarm.ca_pem)
    with capture_logs() as logged:
        error = await refusal(asyncio.to_thread(door.join, swarm.request(name, token.text, role)))
    assert isinstance(error, UnauthenticatedError) and token.id in error.subject
    (line,) = [each for each in logged if each["event"] == "refused"]
    assert (line["method"], line["code"]) == ("/v1/join", "unauthenticated")
    assert token.id in line["subject"] and error.found in line["reason"] and len(line["reason"]) <= 300
    assert token.secret not in str(line)
    assert isinstance(await refusal((await swarm.operator()).record(NodeId(name))), NotFoundError)
    assert not (swarm.home.coordinator / "records" / f"{name}.json").exists()
    return line


async def restart(swarm: BackEnd) -> None:
    await swarm.stop_coordinator()
    await swarm.start_coordinator()


@pytest.mark.parametrize("role", ["node", "operator", "client"])
async def test_a_token_that_was_planted_in_redis_lets_nobody_in(swarm: BackEnd, role: Role) -> None:
    token = await plant(swarm, role)
    line = await turned_away(swarm, f"mallory-{role}", token, role)
    assert "did not make" in line["reason"] and "swarm token create" in line["reason"]
    assert token.id not in {view.id for view in await (await swarm.operator()).tokens()}


async def test_a_planted_token_still_lets_nobody_in_after_a_restart_which_names_it(swarm: BackEnd) -> None:
    token = await plant(swarm, "operator")
    with capture_logs() as logged:
        await restart(swarm)
    named = [each for each in logged if each["event"] == "token.not_made_here" and each["token"] == token.id]
    assert [each["role"] for each in named] == ["operator"]
    await turned_away(swarm, "mallory-later", token, "operator")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("role", "operator", "role operator instead of node"),
        ("hash", "0" * 64, "hash of another secret"),
        ("expires_at", "9e9", "another expiry"),
        ("uses", "9", "9 uses instead of 1"),
    ],
)
async def test_a_token_that_was_altered_in_redis_lets_nobody_in_until_it_is_as_it_was(
    swarm: BackEnd, attacker: Redis, field: str, value: str, words: str
) -> None:
    token = await swarm.new_token()
    key = f"{PREFIX}token:{token.id}"
    was = await attacker.hget(key, field)  # type: ignore[misc]
    await attacker.hset(key, field, value)  # type: ignore[misc]
    roles: tuple[Role, ...] = ("node", "operator") if field == "role" else ("node",)
    for role in roles:
        line = await turned_away(swarm, f"mallory-{field.replace('_', '-')}", token, role)
        assert words in line["reason"]
    await attacker.hset(key, field, was)  # type: ignore[misc]
    identity = await swarm.join(f"ada-{field.replace('_', '-')}", token)
    assert identity.role == "node"


async def test_an_attackers_own_secret_in_the_place_of_a_tokens_lets_nobody_in(
    swarm: BackEnd, attacker: Redis
) -> None:
    token, own = await swarm.new_token("operator"), new_join_token(swarm.token.pin)
    await attacker.hset(f"{PREFIX}token:{token.id}", "hash", secret_hash(own.secret))  # type: ignore[misc]
    forged = JoinToken(id=token.id, pin=token.pin, secret=own.secret)
    assert "another secret" in (await turned_away(swarm, "mallory-own", forged, "operator"))["reason"]


async def test_uses_and_a_revocation_that_redis_forgot_are_not_forgotten(
    swarm: BackEnd, attacker: Redis
) -> None:
    used, revoked = await swarm.new_token(), await swarm.new_token()
    await swarm.join("first-user", used)
    await (await swarm.operator()).revoke_token(revoked.id)
    await attacker.hset(f"{PREFIX}token:{used.id}", "uses", "1")  # type: ignore[misc]
    await attacker.hset(f"{PREFIX}token:{revoked.id}", "revoked", "0")  # type: ignore[misc]
    assert "used already" in (await turned_away(swarm, "second-user", used))["reason"]
    assert "a revoked token" in (await turned_away(swarm, "third-user", revoked))["reason"]
    await attacker.delete(f"{PREFIX}token:{used.id}", f"{PREFIX}token:{revoked.id}")
    assert "used already" in (await turned_away(swarm, "second-user", used))["reason"]
    assert "a revoked token" in (await turned_away(swarm, "third-user", revoked))["reason"]
    await (await swarm.operator()).revoke_token(revoked.id)


async def test_a_token_of_the_book_lets_in_although_redis_lost_it(swarm: BackEnd, attacker: Redis) -> None:
    token = await swarm.new_token(uses=2)
    await attacker.delete(f"{PREFIX}token:{token.id}")
    assert (await swarm.join("kept-one", token)).role == "node"
    assert {view.id: view.uses_left for view in await (await swarm.operator()).tokens()}[token.id] == 1
    assert await attacker.hget(f"{PREFIX}token:{token.id}", "uses") == b"1"  # type: ignore[misc]


async def test_rows_that_are_no_tokens_neither_let_in_nor_stop_the_coordinator(
    swarm: BackEnd, attacker: Redis
) -> None:
    token = new_join_token(swarm.token.pin)
    row = {"hash": secret_hash(token.secret), "role": "operator"}
    await attacker.hset(f"{PREFIX}token:{token.id}", mapping=row)  # type: ignore[misc]
    await attacker.sadd(f"{PREFIX}tokens", token.id, "nothing")  # type: ignore[misc]
    await turned_away(swarm, "mallory-rows", token, "operator")
    await restart(swarm)
    await swarm.join("after-rows")


async def test_a_tombstone_in_redis_writes_no_token_into_the_coordinators_folder(
    swarm: BackEnd, attacker: Redis
) -> None:
    """A name of a tombstone once was a path: it led into the folder that tokens are taken from."""
    token = new_join_token(swarm.token.pin)
    now = time.time()
    seed = {
        "hash": secret_hash(token.secret), "role": "operator", "uses": 1, "created_at": now,
        "expires_at": now + 3600,
    }  # fmt: skip
    booked = seed | {"claimants": [], "is_revoked": False}
    for folder, planted in (("tokens", seed), ("token-book", booked)):
        name = f"../{folder}/{token.id}"
        await attacker.hset(f"{PREFIX}tombstones", name, json.dumps(planted))  # type: ignore[misc]
    with capture_logs() as logged:
        await restart(swarm)
        await restart(swarm)
    assert [each for each in logged if each["event"] == "tombstone.refused"]
    assert not list(swarm.home.coordinator.rglob(f"*{token.id}*"))
    await turned_away(swarm, "mallory-stone", token, "operator")
    await attacker.delete(f"{PREFIX}tombstones")


async def test_another_members_record_under_a_name_of_ones_own_makes_nobody_a_member(
    swarm: BackEnd, attacker: Redis
) -> None:
    await swarm.join("honest")
    record = (swarm.home.coordinator / "records" / "honest.json").read_bytes()
    assert read_statement(record, MemberRecord).value.id == "honest"
    await attacker.set(f"{PREFIX}node:shadow", record)
    await attacker.sadd(f"{PREFIX}nodes", "shadow")  # type: ignore[misc]
    await restart(swarm)
    assert isinstance(await refusal((await swarm.operator()).record(NodeId("shadow"))), SwarmError)
    assert not (swarm.home.coordinator / "records" / "shadow.json").exists()


async def test_a_forged_revocation_list_in_redis_keeps_no_revocation_from_taking_effect(
    swarm: BackEnd, attacker: Redis, tmp_path: Path
) -> None:
    ada, bob = await swarm.node("watcher", "ab"), await swarm.node("leaver", "cd")
    newest = int(await attacker.get(f"{PREFIX}revocations:newest"))
    value = RevocationList(swarm=SwarmId("plants"), number=newest + 7, nodes=(), issued_at=time.time())
    envelope = sign_statement(value, Signer.generate())
    await attacker.set(f"{PREFIX}revocations:{newest + 7}", envelope)
    await attacker.set(f"{PREFIX}revocations:newest", newest + 7)
    with capture_logs() as logged:
        await (await swarm.operator()).revoke_node(NodeId("leaver"), "stolen")
    assert [each for each in logged if each["event"] == "revocations.refused"]
    async with asyncio.timeout(10):
        while not ada.keyring.is_revoked(NodeId("leaver")) or bob.stream.connected:
            await asyncio.sleep(0.05)
    async with registry_beside(swarm, tmp_path) as port:
        assert await heard(bob, port) and not await heard(ada, port)


@asynccontextmanager
async def registry_beside(swarm: BackEnd, folder: Path) -> AsyncIterator[int]:
    """A registry that starts over the same Redis and knows where the coordinator is."""
    shutil.copytree(swarm.home.registry / "identity", folder / "identity")
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    config = RegistryConfig(
        identity=folder / "identity",
        blobs=folder / "blobs",
        redis_url=swarm.redis_url,
        port=0,
        coordinator=f"127.0.0.1:{swarm.endpoints.port}",
    )
    serving = asyncio.create_task(serve(config, ready.set_result))
    await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield ready.result()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def heard(node: SmallNode, port: int) -> bool:
    """Say whether a registry, which has a while to ask, knows a node as revoked."""
    address = f"127.0.0.1:{port}"
    async with open_channel(node.identity, address, "registry", NodeId("registry")) as connection:
        registry = RegistryClient(connection)
        for _ in range(50):
            answer = await result_or_refusal(registry.heads())
            if isinstance(answer, UnauthenticatedError):
                return "revoked" in str(answer)
            await asyncio.sleep(0.05)
    return False


async def test_a_gate_that_was_signed_and_never_meant_to_count_does_not_count_because_redis_has_it(
    swarm: BackEnd, attacker: Redis
) -> None:
    """Nodes that try a candidate see it signed, also where it is refused."""
    ada = await swarm.node("grower", "ab")
    version = (await ada.train()).gate_version
    signer = Identity.load(swarm.home.coordinator / "identity").required_signer()
    active = read_statement(await ada.coordinator.gate(), GateStatement).value
    tried = replace(active, version=version + 1, reason="refused in its trial")
    await attacker.set(f"{PREFIX}gate:{version + 1}", sign_statement(tried, signer))
    await attacker.set(f"{PREFIX}gate:newest", version + 1)
    await ada.disconnect()
    with capture_logs() as logged:
        await restart(swarm)
    assert [each["version"] for each in logged if each["event"] == "gate.not_made_here"] == [version + 1]
    assert (await (await swarm.operator()).status()).gate_version == version
    await attacker.set(f"{PREFIX}gate:newest", version)
    await attacker.delete(f"{PREFIX}gate:{version + 1}")
