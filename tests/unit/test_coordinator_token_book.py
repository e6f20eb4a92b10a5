"""What is booked of join tokens, and a store that lacks some of it."""

from pathlib import Path

import pytest

from coordinator.token_book import TokenBook
from swarm.domain.errors import SwarmError
from swarm.registry.memory_store import MemoryStore

NOW = 1000.0


async def a_token(folder: Path, store: MemoryStore, uses: int) -> TokenBook:
    book = TokenBook(folder)
    facts = {"hash": "h", "role": "node", "uses": uses, "expires_at": NOW + 60, "created_at": NOW}
    await book.made("t", facts)
    await store.add_token("t", "h", role="node", uses=uses, expires_at=NOW + 60, created_at=NOW)
    return book


async def left(store: MemoryStore) -> int:
    (view,) = await store.tokens()
    return view.uses_left


async def test_a_use_that_a_crash_kept_from_the_store_is_still_its_joiners_and_nobody_elses(
    tmp_path: Path,
) -> None:
    store = MemoryStore(lambda: NOW)
    await (await a_token(tmp_path, store, 1)).claimed("t", "ada's join")
    after = TokenBook(tmp_path)
    await after.synchronise(store, NOW + 1)
    assert await left(store) == 0
    assert await store.claim_token("t", "h", NOW + 1, role="node", claimant="ada's join") == "node"
    with pytest.raises(SwarmError, match="used already"):
        await store.claim_token("t", "h", NOW + 1, role="node", claimant="bob's join")


async def test_a_use_that_the_store_has_is_not_taken_again_for_one_that_it_lacks(tmp_path: Path) -> None:
    store = MemoryStore(lambda: NOW)
    book = await a_token(tmp_path, store, 3)
    await book.claimed("t", "ada's join")
    await book.claimed("t", "bob's join")
    await store.claim_token("t", "h", NOW, role="node", claimant="bob's join")
    await TokenBook(tmp_path).synchronise(store, NOW + 1)
    assert await left(store) == 1
    for claimant in ("ada's join", "bob's join"):
        await store.claim_token("t", "h", NOW + 1, role="node", claimant=claimant)
    assert await left(store) == 1
