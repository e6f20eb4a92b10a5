"""What a registry does besides answering: its certificate and the revocation list stay current."""

import asyncio
from datetime import timedelta
from pathlib import Path

from swarm.domain.errors import UnreachableError
from swarm.domain.ids import NodeId
from swarm.registry.memory_store import MemoryStore
from swarm.registry.upkeep import (
    ask_for_revocations,
    certificate_days,
    follow_revocations,
    keep_certificate,
    keep_swept,
    take_revocations,
)
from swarm.trust.identity import LIFETIMES
from swarm.trust.statements import sign_statement
from tests.support.trust import NOW, Founded, found, revocations

ADA = NodeId("ada")


def registry_identity(founded: Founded) -> Path:
    return founded.registry(founded.folder / "registry").folder


async def test_the_certificate_is_renewed_at_two_thirds_of_its_life_and_not_before(tmp_path: Path) -> None:
    founded = found(tmp_path)
    folder, asked = registry_identity(founded), asyncio.Event()

    async def renew(csr_pem: bytes, key: str) -> bytes:
        assert key
        asked.set()
        return founded.ca.issue(
            csr_pem, role="registry", member=NodeId("registry"), lifetime=LIFETIMES["registry"], now=later
        )

    for later, is_due in ((NOW + timedelta(days=4), False), (NOW + timedelta(days=5), True)):
        keeping = asyncio.create_task(keep_certificate(folder, renew, lambda now=later: now))
        await asyncio.sleep(0.05)
        keeping.cancel()
        assert asked.is_set() == is_due
        assert (certificate_days(folder, later) > 6.9) == is_due


async def test_an_unreachable_coordinator_is_no_end_of_the_registry(tmp_path: Path) -> None:
    founded = found(tmp_path)
    folder = registry_identity(founded)

    async def renew(csr_pem: bytes, key: str) -> bytes:
        raise UnreachableError("coordinator at nowhere")

    keeping = asyncio.create_task(keep_certificate(folder, renew, lambda: NOW + timedelta(days=6)))
    await asyncio.sleep(0.05)
    assert not keeping.done()
    keeping.cancel()
    assert certificate_days(folder, NOW) > 6.9


async def test_the_list_is_followed_and_a_forged_or_older_one_is_not_taken(tmp_path: Path) -> None:
    founded = found(tmp_path)
    store, keyring = MemoryStore(), founded.keyring()
    eve = founded.member("eve").required_signer()
    following = asyncio.create_task(follow_revocations(store, keyring))
    await asyncio.sleep(0.01)
    await store.put_revocations(1, sign_statement(revocations(1, "ada"), founded.coordinator_signer))
    await asyncio.sleep(0.05)
    assert keyring.is_revoked(ADA)
    await store.put_revocations(2, sign_statement(revocations(2), eve))
    await asyncio.sleep(0.05)
    assert keyring.is_revoked(ADA)
    await store.put_revocations(3, sign_statement(revocations(3, "ada", "bob"), founded.coordinator_signer))
    await asyncio.sleep(0.05)
    assert keyring.is_revoked(NodeId("bob"))
    following.cancel()
    await store.put_revocations(4, sign_statement(revocations(2), founded.coordinator_signer))
    await take_revocations(store, keyring)
    assert keyring.is_revoked(NodeId("bob"))


async def test_the_coordinators_word_counts_where_the_store_was_kept_back(tmp_path: Path) -> None:
    founded = found(tmp_path)
    keyring, asked = founded.keyring(), asyncio.Event()
    newest = sign_statement(revocations(2, "ada"), founded.coordinator_signer)
    forged = sign_statement(revocations(3), founded.member("eve").required_signer())
    answers: list[bytes | UnreachableError] = [UnreachableError("coordinator"), newest, forged]

    async def ask() -> bytes:
        if not answers:
            asked.set()
            await asyncio.Event().wait()
        answer = answers.pop(0)
        if isinstance(answer, UnreachableError):
            raise answer
        return answer

    asking = asyncio.create_task(ask_for_revocations(ask, keyring, every_s=0.001))
    await asyncio.wait_for(asked.wait(), 5)
    asking.cancel()
    assert keyring.is_revoked(ADA)


async def test_blobs_are_swept_again_and_again_also_after_an_outage() -> None:
    swept, enough = 0, asyncio.Event()

    async def sweep() -> int:
        nonlocal swept
        swept += 1
        if swept == 1:
            raise UnreachableError("redis")
        enough.set()
        return 0

    keeping = asyncio.create_task(keep_swept(sweep, every_s=0.01))
    await asyncio.wait_for(enough.wait(), 5)
    keeping.cancel()
