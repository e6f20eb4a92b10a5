"""Whom a node asks for a start, and what comes of it: fair among its leaves, and within one time limit."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from node.borrowing import borrowed, interleaved
from node.jobs import Lender
from node.loans import MOST_LOANS, MOST_WANTED, Lending, Loans, Wanted
from node.preparing import Bench
from node.shards import Shard
from swarm.domain.agent import TrainOrder
from swarm.domain.errors import NotFoundError
from swarm.domain.ids import ROOT_EXPERT, ExpertId, LeafId, NodeId, expert_of, leaf_of
from swarm.domain.manifests import Manifest, Share
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import pack_single
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement
from tests.support.learning import make_job
from tests.support.trust import manifest

SIGNER = Signer.generate()
ROWS, WIDTH = 30, 4


def experts(*names: str) -> list[ExpertId]:
    return [ExpertId(name) for name in names]


def test_rankings_take_turns_and_nobody_is_named_twice() -> None:
    found = interleaved([experts("a", "b", "c"), experts("b", "d"), experts("a", "e", "f", "g")])
    assert found == ("a", "b", "d", "e", "c", "f", "g")
    assert interleaved([]) == ()


def lender(cache: BlobFiles, owner: str, place: float) -> Lender:
    """Return a peer whose prototypes lie at a place."""
    leaf = leaf_of(NodeId(owner), 1)
    entries, _, blob = pack_single({"prototypes": np.full((2, WIDTH), place, np.float32)})
    cache.put(blob)
    return Lender(leaf=leaf, expert=expert_of(leaf), prototypes=entries[0])


def shards_of(rows: Sequence[np.ndarray]) -> list[Shard]:
    """Return new shards of which nothing but their rows is known: borrowing asks for no more."""
    return [cast(Shard, _NewShard(each, LeafId(f"rose.l{row}"))) for row, each in enumerate(rows, start=1)]


class _NewShard:
    existing = None

    def __init__(self, rows: np.ndarray, leaf: LeafId) -> None:
        self.rows, self.leaf = rows, leaf


def wanted(folder: Path, places: Sequence[float], leaves: int) -> tuple[tuple[ExpertId, ...], int]:
    """Return whom a node with so many new leaves, at 0, 100, 200 ..., asks, and the FLOPs of finding out."""
    cache = BlobFiles(folder / "cache")
    job = make_job(folder / "job", TrainOrder(data="digits"))
    lenders = tuple(lender(cache, f"peer-{row}", place) for row, place in enumerate(places))
    bench = Bench(
        job=replace(job, lenders=lenders),
        folder=folder / "job",
        report=lambda stage, message, fraction: Loans(loans=()).write(folder / "job"),
        clock=lambda: 0.0,
        read_from=cache,
        write_to=cache,
    )
    regions = np.repeat(np.arange(leaves) * 100.0, ROWS)[:, None] * np.ones(WIDTH)
    rows = [np.arange(ROWS) + ROWS * leaf for leaf in range(leaves)]
    _, flops = borrowed(bench, shards_of(rows), regions.astype(np.float32))
    return Wanted.read(folder / "job").experts, flops


def test_every_new_leaf_has_its_nearest_among_the_first_that_are_asked(tmp_path: Path) -> None:
    found, flops = wanted(tmp_path, [0, 1, 2, 3, 4, 100, 200], leaves=3)
    assert found[:3] == ("peer-0.e1", "peer-5.e1", "peer-6.e1")
    assert len(found) == 7 and flops > 0


def test_more_are_named_than_are_taken_in_case_some_do_not_lend(tmp_path: Path) -> None:
    found, _ = wanted(tmp_path, [float(row) for row in range(20)], leaves=1)
    assert found == tuple(f"peer-{row}.e1" for row in range(MOST_WANTED))


class StubRegistry:
    """Knows one manifest for each peer; some do not answer."""

    def __init__(self, manifests: dict[str, Manifest], silent: frozenset[str] = frozenset()) -> None:
        self._manifests, self._silent = manifests, silent
        self.asked: list[str] = []

    async def manifest(self, reference: str) -> Statement[Manifest]:
        self.asked.append(reference)
        if reference in self._silent:
            await asyncio.Event().wait()
        if reference not in self._manifests:
            raise NotFoundError(reference, found="nothing")
        return read_statement(sign_statement(self._manifests[reference], SIGNER), Manifest)

    async def blobs(self, value: Manifest) -> None:
        await asyncio.sleep(0)


def peers(count: int, kept_back: int = 0) -> dict[str, Manifest]:
    """Return this many peers' manifests, of which the first ones are not shared, and the root's."""
    found = {}
    for row in range(count):
        share: Share = "serve-only" if row < kept_back else "borrow"
        one = replace(manifest(f"peer-{row}"), share=share)
        found[str(one.expert)] = one
    return found | {str(ROOT_EXPERT): manifest("coordinator", number=0)}


async def lend(registry: StubRegistry, names: Sequence[ExpertId]) -> Loans:
    return await Lending(NodeId("rose"), cast(VerifiedRegistry, registry)).lend(names, ())


async def test_who_does_not_lend_takes_no_place() -> None:
    registry = StubRegistry(peers(5, kept_back=4))
    found = await lend(registry, experts(*(f"peer-{row}.e1" for row in range(5))))
    assert [loan.expert for loan in found.loans] == ["peer-4.e1", ROOT_EXPERT]
    assert list(found.refused) == [f"peer-{row}.e1" for row in range(4)]
    assert set(found.refused.values()) == {"its owner says serve-only"}


async def test_enough_loans_are_enough_and_the_root_comes_in_addition() -> None:
    registry = StubRegistry(peers(9, kept_back=1))
    found = await lend(registry, experts(*(f"peer-{row}.e1" for row in range(9))))
    assert [loan.expert for loan in found.loans] == [*(f"peer-{row}.e1" for row in (1, 2, 3, 4)), ROOT_EXPERT]
    assert len(found.loans) == MOST_LOANS + 1
    assert registry.asked == [*(f"peer-{row}.e1" for row in range(5)), ROOT_EXPERT]


async def test_all_loans_together_have_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.loans.LOANS_TIMEOUT_S", 0.3)
    names = [f"peer-{row}.e1" for row in range(9)]
    registry = StubRegistry(peers(9), silent=frozenset(names[1:]))
    clock = asyncio.get_running_loop().time
    began = clock()
    found = await lend(registry, experts(*names))
    assert clock() - began < 2 * 0.3
    assert [loan.expert for loan in found.loans] == ["peer-0.e1"]
    assert found.refused["peer-1.e1"] == found.refused[ROOT_EXPERT] == "no answer in time"


async def test_one_list_of_names_is_not_followed_for_ever() -> None:
    registry = StubRegistry({})
    found = await lend(registry, experts(*(f"peer-{row}.e1" for row in range(100))))
    assert found.loans == () and len(registry.asked) == MOST_WANTED + 1
