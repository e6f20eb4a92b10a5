"""The journal of claims is bounded by the blobs that are here, whoever asks for whatever how often."""

from pathlib import Path

import pytest

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest
from swarm.domain.tensors import MAX_ASKED_BLOBS
from swarm.registry.claims import Claims
from swarm.registry.service import RegistryService
from tests.support.registry import Registry, expert, open_registry

INVENTED = [digest_of(b"%d" % row) for row in range(MAX_ASKED_BLOBS)]


async def with_claims(folder: Path) -> tuple[Registry, Claims, Path]:
    registry = await open_registry(folder)
    journal = folder / "claims.jsonl"
    claims = Claims(journal)
    registry.service = RegistryService(
        store=registry.store,
        blobs=registry.blobs,
        keyring=registry.keyring,
        certificate_days=lambda: 6.5,
        spare_bytes=0,
        claims=claims,
    )
    return registry, claims, journal


def written(journal: Path) -> int:
    return journal.stat().st_size if journal.exists() else 0


async def test_what_is_not_here_is_not_claimed(tmp_path: Path) -> None:
    registry, claims, journal = await with_claims(tmp_path)
    _, blobs = expert()
    await registry.publish(blobs)
    before, here = written(journal), next(iter(blobs))
    asked = [*INVENTED[1:], here]
    assert await registry.service.missing(asked, registry.caller("ada")) == INVENTED[1:]
    assert 0 < written(journal) - before < 300
    assert not any(map(claims.is_claimed, INVENTED))
    await registry.commit(expert()[0])
    assert claims.is_claimed(here) and Claims(journal).is_claimed(here)


async def test_more_than_ten_thousand_at_once_are_refused_by_name(tmp_path: Path) -> None:
    registry, _, journal = await with_claims(tmp_path)
    for claimant in (registry.caller("bob"), None):
        with pytest.raises(InvalidInputError, match="blobs asked for at once"):
            await registry.service.missing([*INVENTED, digest_of(b"x")], claimant)
    assert not written(journal)


def test_claims_on_the_same_blobs_again_and_again_do_not_fill_the_disk(tmp_path: Path) -> None:
    journal = tmp_path / "claims.jsonl"
    claims, names = Claims(journal), INVENTED[:1000]
    sizes = []
    for _ in range(60):
        claims.claim("bob", names)
        sizes.append(written(journal))
    assert max(sizes) < 2_000_000
    again = Claims(journal)
    again.release("bob", names)
    assert all(map(again.is_claimed, names))


def test_what_is_held_during_a_call_is_in_no_journal(tmp_path: Path) -> None:
    journal = tmp_path / "claims.jsonl"
    claims = Claims(journal)
    held, kept = Digest(INVENTED[0]), Digest(INVENTED[1])
    claims.claim("bob", [kept])
    claims.hold("bob", [held, kept])
    claims.compact()
    again = Claims(journal)
    assert again.is_claimed(kept) and not again.is_claimed(held)
    again.release("bob", [kept])
    assert not again.is_claimed(kept)
    claims.let_go("bob", [held, kept])
    assert claims.is_claimed(kept) and not claims.is_claimed(held)
