"""Joining, leaving, tokens and renewal, over a real join port, real mutual TLS and a real Redis."""

import asyncio
import http.client
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import CoordinatorConfig
from coordinator.founding import found_swarm
from node.join_port import JoinPort
from swarm.cli.places import coordinator, find_place
from swarm.config import SwarmHome
from swarm.digests import digest_of
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    StaleFenceError,
    SwarmError,
    UnauthenticatedError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import Identity, needs_renewal, replace_certificate
from swarm.trust.proofs import renewal_request
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement
from swarm.trust.tokens import new_join_token, parse_join_line
from tests.support.coordinator import CLASSES, BackEnd, back_end, refusal, start_coordinator


@pytest.fixture
async def swarm(tmp_path: Path) -> AsyncIterator[BackEnd]:
    async with back_end(tmp_path) as running:
        yield running


def trusted(swarm: BackEnd) -> JoinPort:
    return swarm.door(swarm.ca_pem)


def exchange(swarm: BackEnd, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str]]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(
        "127.0.0.1", swarm.endpoints.join_port, context=context, timeout=10
    )
    connection.request(method, path, body=body)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


async def test_twenty_simultaneous_uses_of_a_one_use_token_admit_exactly_one(swarm: BackEnd) -> None:
    async def attempt(number: int) -> str:
        try:
            await swarm.join(f"node{number}", swarm.token)
        except SwarmError as error:
            return error.code
        return "joined"

    outcomes = Counter(await asyncio.gather(*(attempt(number) for number in range(20))))
    assert outcomes == {"joined": 1, "unauthenticated": 19}


async def test_a_token_that_is_wrong_or_of_another_swarm_is_refused_and_admits_nobody(swarm: BackEnd) -> None:
    wrong = replace(swarm.token, secret="x" * 43)
    foreign = new_join_token("0" * 64)
    for token, found in ((wrong, "wrong secret"), (foreign, "another swarm")):
        error = await refusal(asyncio.to_thread(trusted(swarm).join, swarm.request("ada", token.text)))
        assert isinstance(error, UnauthenticatedError) and found in error.found
    assert (await (await swarm.operator()).status()).nodes == ()
    await swarm.join("ada", swarm.token)


async def test_the_wrong_pin_is_noticed_before_anything_secret_is_sent(swarm: BackEnd) -> None:
    error = await refusal(asyncio.to_thread(swarm.door().fetch_ca, "0" * 64))
    assert isinstance(error, VerificationError)


async def test_a_joiner_that_lost_the_answer_asks_again_and_gets_the_same(swarm: BackEnd) -> None:
    body = swarm.request("ada", swarm.token.text)
    first = await asyncio.to_thread(trusted(swarm).join, body)
    assert await asyncio.to_thread(trusted(swarm).join, body) == first


async def test_a_name_is_never_given_twice_and_the_refused_token_stays_good(swarm: BackEnd) -> None:
    await swarm.join("ada")
    error = await refusal(swarm.join("ada", swarm.token))
    assert isinstance(error, ConflictError) and "--name" in error.remedy
    await swarm.join("bob", swarm.token)


async def test_a_proof_by_another_key_a_reserved_name_and_another_role_are_refused(swarm: BackEnd) -> None:
    good = swarm.request("ada", swarm.token.text)
    bad_proof = good | {"signing_key": Signer.generate().public_hex}
    for body, expected in (
        (bad_proof, UnauthenticatedError),
        (swarm.request("ada", swarm.token.text) | {"node": "registry"}, InvalidInputError),
        (good | {"node": "policy"}, InvalidInputError),
        (good | {"node": "Not A Name"}, InvalidInputError),
        (good | {"role": "coordinator"}, InvalidInputError),
        (good | {"csr_pem": "nothing"}, SwarmError),
        ({"token": "x"}, InvalidInputError),
    ):
        assert isinstance(await refusal(asyncio.to_thread(trusted(swarm).join, body)), expected)
    client = swarm.request("eve", (await swarm.new_token()).text) | {"role": "client"}
    assert isinstance(await refusal(asyncio.to_thread(trusted(swarm).join, client)), NotAuthorisedError)
    await swarm.join("ada", swarm.token)


async def test_the_join_port_tells_the_specification_and_trunk_to_anyone_and_nothing_else(
    swarm: BackEnd,
) -> None:
    door = trusted(swarm)
    told = await asyncio.to_thread(door.specification)
    value = read_statement(told["specification"].encode(), Specification).value
    assert value.class_names == CLASSES
    blob = value.trunk.probe.tensors[0].blob
    assert digest_of(await asyncio.to_thread(door.blob, blob)) == blob
    other = await refusal(asyncio.to_thread(door.blob, digest_of(b"something else")))
    assert isinstance(other, NotFoundError)


async def test_problems_are_json_and_large_bodies_are_refused(swarm: BackEnd) -> None:
    status, body = await asyncio.to_thread(exchange, swarm, "POST", "/v1/join", b"x" * 70_000)
    assert (status, body["code"]) == (400, "invalid_input")
    status, body = await asyncio.to_thread(exchange, swarm, "POST", "/v1/join", b"[1]")
    assert (status, body["expected"]) == (400, "a JSON object")
    status, body = await asyncio.to_thread(exchange, swarm, "GET", "/v1/nothing")
    assert (status, body["code"]) == (404, "not_found")


async def test_too_many_calls_of_one_address_are_turned_away_for_a_while(swarm: BackEnd) -> None:
    calls = (asyncio.to_thread(exchange, swarm, "POST", "/v1/join", b"{}") for _ in range(60))
    found = await asyncio.gather(*calls)
    assert Counter(status for status, _ in found)[429] >= 3
    status, _ = await asyncio.to_thread(exchange, swarm, "GET", "/v1/specification")
    assert status == 200


async def test_a_node_that_slept_renews_by_its_signing_key_unless_it_was_revoked(swarm: BackEnd) -> None:
    identity = await swarm.join("ada")
    signer, csr = identity.required_signer(), identity.renewal_csr()

    def body() -> dict[str, Any]:
        return renewal_request(signer, identity.id, csr, datetime.now(UTC))

    renewed = await asyncio.to_thread(trusted(swarm).renew, body())
    assert "BEGIN CERTIFICATE" in renewed["certificate_pem"]
    forged = body() | {"timestamp": 1.0}
    assert isinstance(await refusal(asyncio.to_thread(trusted(swarm).renew, forged)), UnauthenticatedError)
    await (await swarm.operator()).revoke_node(identity.id, "lost laptop")
    error = await refusal(asyncio.to_thread(trusted(swarm).renew, body()))
    assert isinstance(error, UnauthenticatedError) and "revoked" in error.found


async def test_tokens_are_made_listed_and_revoked_and_a_resent_call_makes_no_second_one(
    swarm: BackEnd,
) -> None:
    operator = await swarm.operator()
    line, view = await operator.create_token("node", 3, 60.0, key="k1")
    assert await operator.create_token("node", 3, 60.0, key="k1") == (line, view)
    token, host, port = parse_join_line(line)
    assert (host, port, view.uses_left) == ("127.0.0.1", swarm.endpoints.join_port, 3)
    assert len(await operator.tokens()) == 2
    await operator.revoke_token(token.id, key="k2")
    await operator.revoke_token(token.id, key="k2")
    assert "revoked" in (await refusal(swarm.join("ada", token))).found
    assert not list((swarm.home.coordinator / "tokens").glob("*.json"))


async def test_services_and_members_renew_over_the_wire_and_a_resent_call_gives_the_same(
    swarm: BackEnd,
) -> None:
    operator, node = await swarm.operator(), await swarm.node("ada", "ab")
    csr = node.identity.renewal_csr()
    first = await node.coordinator.renew_certificate(csr, "r1")
    assert await node.coordinator.renew_certificate(csr, "r1") == first
    assert await node.coordinator.renew_certificate(csr, "r2") != first
    assert isinstance(await refusal(node.coordinator.create_token()), NotAuthorisedError)
    assert (await operator.record(node.id)) == node.identity.record


async def test_the_last_operator_stays_until_there_is_another(swarm: BackEnd) -> None:
    first = await swarm.operator()
    with pytest.raises(NotAuthorisedError, match="last operator"):
        await first.revoke_node(NodeId("operator"), "stolen")
    body = swarm.request("second", (await swarm.new_token("operator")).text, "operator")
    await asyncio.to_thread(trusted(swarm).join, body)
    await first.revoke_node(NodeId("operator"), "stolen")
    with pytest.raises(SwarmError, match="revoked"):
        await first.tokens()


async def test_a_revoked_node_is_cut_off_and_the_others_are_told(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    await (await swarm.operator()).revoke_node(NodeId("bob"), "stolen", key="k")
    again = await (await swarm.operator()).revoke_node(NodeId("bob"), "stolen", key="k")
    assert again == (0, ())
    async with asyncio.timeout(5):
        while not ada.keyring.is_revoked(NodeId("bob")) or bob.stream.connected:
            await asyncio.sleep(0.05)
    assert isinstance(await refusal(bob.coordinator.status()), UnauthenticatedError)
    view = next(v for v in (await ada.coordinator.status()).nodes if v.id == "bob")
    assert view.revoked and not view.alive
    kinds = [event.kind async for event in ada.coordinator.events(limit=0)]
    assert {"node.joined", "node.left", "node.revoked"} <= set(kinds)
    assert kinds.count("node.revoked") == 1
    assert isinstance(await refusal((await swarm.operator()).revoke_node(NodeId("eve"), "")), NotFoundError)


async def test_a_silent_node_is_lost_once_and_a_second_stream_takes_the_firsts_place(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    old_fence = bob.fence
    await bob.disconnect()
    async with asyncio.timeout(20):
        lost = [event async for event in _until(ada, "node.lost")]
    assert dict(lost[-1].fields)["node"] == "bob"
    bob = await swarm.connect(bob)
    assert bob.fence > old_fence
    bob.fence = old_fence
    assert isinstance(await refusal(bob.publish()), StaleFenceError)


async def test_what_keeps_a_nodes_stream_from_going_on_is_an_event_and_so_is_its_end(swarm: BackEnd) -> None:
    ada, bob = await swarm.node("ada", "ab"), await swarm.node("bob", "cd")
    bob.trouble = "No space left on device"
    async with asyncio.timeout(30):
        *_, troubled = [event async for event in _until(ada, "node.stream_troubled")]
        await asyncio.sleep(4)
        bob.trouble = ""
        events = [event async for event in _until(ada, "node.stream_goes_on")]
    assert dict(troubled.fields) == {"node": "bob", "because": "No space left on device"}
    assert dict(events[-1].fields) == {"node": "bob"}
    assert [event.kind for event in events].count("node.stream_troubled") == 1


async def _until(node: Any, kind: str) -> AsyncIterator[Any]:
    async for event in node.coordinator.events(follow=True):
        yield event
        if event.kind == kind:
            return


async def test_a_port_in_use_and_a_second_founding_are_refused_by_name(swarm: BackEnd) -> None:
    taken = replace(swarm.endpoints, port=0)
    with pytest.raises(UsageError, match="join port"):
        await start_coordinator(swarm.home, swarm.redis_url, swarm.registry_port, taken)
    with pytest.raises(ConflictError, match="--home"):
        found_swarm(
            SwarmHome(swarm.home.root),
            swarm="plants",
            input_shape=(4,),
            input_dtype="float32",
            scale=1.0,
            offset=0.0,
            class_names=("a", "b"),
            now=datetime.now(UTC),
        )
    assert CoordinatorConfig(home=swarm.home, redis_url="x").join_port == 7070


async def test_an_operators_certificate_is_renewed_by_its_next_command(swarm: BackEnd) -> None:
    folder, now = swarm.home.operator / "identity", datetime.now(UTC)
    facts = json.loads((folder / "identity.json").read_text())
    facts["coordinator"] = f"127.0.0.1:{swarm.endpoints.port}"
    (folder / "identity.json").write_text(json.dumps(facts))
    identity = Identity.load(folder)
    due = CertificateAuthority.load(swarm.home.ca).issue(
        identity.renewal_csr(),
        role="operator",
        member=identity.id,
        lifetime=timedelta(days=3),
        now=now - timedelta(days=2, hours=12),
    )
    replace_certificate(folder, due)
    async with coordinator(find_place(swarm.home.root)) as client:
        assert (await client.status()).gate_version == 0
    assert not needs_renewal(Identity.load(folder).certificate_pem, now)
