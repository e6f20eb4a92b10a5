"""A short `make fuzz`: whatever a member sends, the answer is success or a client's error."""

import random
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from benchmarks.fuzz.attacking import Attack, Failures, Found, noted_failures
from benchmarks.fuzz.delivering import Outcome, Sent, over_socket
from benchmarks.fuzz.headers import Headers
from benchmarks.fuzz.mutations import MOST_BYTES, Mutator
from benchmarks.fuzz.valid import COMPUTING, Requests
from benchmarks.fuzz.world import World, world
from swarm.registry.committing import MAX_ANNOUNCED
from swarm.rpc import methods as m
from swarm.rpc.message_fields import MOST_FIELDS
from swarm.rpc.methods import METHODS, AnyMethod
from swarm.rpc.open_inference.methods import OPEN_INFERENCE_METHODS
from swarm.rpc.options import DIGEST_KEY, SIZE_KEY
from swarm.rpc.pb import registry_pb2

OF_EACH = 12
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("fuzz")) as running:
        yield running


async def test_mutated_messages_of_every_method_get_only_client_errors(attacked: World) -> None:
    found, requests = Found(), await Requests.of(attacked)
    assert set(requests.methods) == {*METHODS, *OPEN_INFERENCE_METHODS}
    with noted_failures() as failures:
        attack = Attack(attacked, requests, seed=7, share_over_tls=0.2)
        for method in requests.methods:
            for _ in range(2 if method in COMPUTING else OF_EACH):
                await attack.one(method, found)
    assert _told(found, failures) == ""
    assert found.messages > OF_EACH * 30 and 0 < found.accepted < found.messages / 2


async def test_mutated_tensor_headers_are_refused_by_name(tmp_path: Path) -> None:
    found = Headers(tmp_path, seed=5).read(1500)
    assert found.faults == [] and found.accepted < found.messages / 5


async def test_the_fuzzer_notices_a_fault_a_crash_and_a_way_around_the_guard() -> None:
    found = Found()
    for code in ("OK", "INVALID_ARGUMENT", "INTERNAL", "UNKNOWN", "CRASH", "HANG"):
        found.note(m.STATUS, Sent(parts=(b"",)), Outcome(code))
    assert (found.accepted, found.server_errors, found.crashes, len(found.faults)) == (1, 2, 2, 4)


async def test_a_size_with_thousands_of_digits_is_no_size(attacked: World) -> None:
    """More digits than Python reads were the registry's own failure once."""
    sent = Sent(parts=(b"x",), metadata=((DIGEST_KEY, "0" * 64), (SIZE_KEY, "9" * 5000)))
    assert await _both_ways(attacked, m.PUBLISH, sent) == {"INVALID_ARGUMENT"}


@pytest.mark.parametrize(
    ("method", "entry"), [(m.MISSING, b"\x0a\0"), (m.PREDICT, b"\x22\0"), (m.EXPERT_PREDICT, b"\x12\0")]
)
async def test_a_message_of_empty_entries_is_refused_before_it_is_parsed(
    attacked: World, method: AnyMethod, entry: bytes
) -> None:
    """Parsed it would take up to 40 times its bytes."""
    sent = Sent(parts=(entry * (MOST_FIELDS + 1),))
    caller = attacked.caller_of(method)
    offered, in_process = attacked.place_of(method)
    assert offered is not None
    here = await in_process.call(method, sent, caller.certificate_pem)
    there = await over_socket(attacked.channel(offered, caller), method, sent)
    assert here == there and here.code == "INVALID_ARGUMENT" and "fields" in here.details


async def test_the_attackers_own_messages_take_little_of_the_memory_that_is_measured() -> None:
    mutator, most_entries = Mutator(random.Random(0)), 0
    for size in (0, 1500, 30_000, 1 << 20):
        for _ in range(300):
            message = registry_pb2.AnnounceRequest(envelopes=[bytes(size)])
            mutator.message_changed(message)
            most_entries = max(most_entries, len(message.envelopes))
            assert message.ByteSize() <= 2 * MOST_BYTES
            whole = message.SerializeToString()
            tracemalloc.start()
            mutator.bytes_changed(whole, [whole[:4096]])
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak <= 8 * MOST_BYTES
    assert most_entries > MAX_ANNOUNCED


async def _both_ways(attacked: World, method: AnyMethod, sent: Sent) -> set[str]:
    caller = attacked.caller_of(method)
    offered, in_process = attacked.place_of(method)
    assert offered is not None
    here = await in_process.call(method, sent, caller.certificate_pem)
    there = await over_socket(attacked.channel(offered, caller), method, sent)
    return {here.code, there.code}


def _told(found: Found, failures: Failures) -> str:
    return "\n".join([*found.faults, *failures.first.values()])
