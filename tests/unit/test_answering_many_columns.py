"""Answers by the index of an analytic gate's columns: those of the same gate that scores all of them."""

from types import SimpleNamespace

import numpy as np
import pytest

from swarm.answering.active_gate import ActiveGate
from swarm.gating import indexed_columns
from tests.support.answers import TRUNK_FLOPS, SmallSwarm, gate

NAMES = "abcdda"


def both(served: str, monkeypatch: pytest.MonkeyPatch) -> tuple[ActiveGate, ActiveGate]:
    """One gate, without and with the index."""
    plain = gate(served)
    monkeypatch.setattr(indexed_columns, "EXACT_TO", 3)
    indexed = gate(served)
    assert plain.columns is None and indexed.columns is not None
    return plain, indexed


@pytest.mark.parametrize("served", ["root", "gate", "poe", "corrected", "prototypes"])
async def test_an_answer_is_the_same_with_the_index(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    swarms = [SmallSwarm(active) for active in both(served, monkeypatch)]
    for swarm in swarms:
        swarm.gone("bob")
    plain, indexed = [await swarm.ask(NAMES, combination=served, explain=True) for swarm in swarms]
    assert np.allclose(plain.probabilities, indexed.probabilities, atol=1e-6)
    assert plain.degraded == indexed.degraded
    assert np.allclose(plain.gate_entropy, indexed.gate_entropy, atol=1e-5)
    for mine, same in zip(plain.sources, indexed.sources, strict=True):
        assert [(each.leaf, each.owner) for each in mine] == [(each.leaf, each.owner) for each in same]
        assert np.allclose([each.weight for each in mine], [each.weight for each in same], atol=1e-6)
        for one, other in zip(mine, same, strict=True):
            assert {each.owner: round(each.weight, 5) for each in one.owners} == {
                each.owner: round(each.weight, 5) for each in other.owners
            }


async def test_more_experts_than_a_list_has_are_found_by_the_whole_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, indexed = both("gate", monkeypatch)
    monkeypatch.setattr(indexed_columns, "LISTED", 1)
    first, second = [
        await SmallSwarm(each).ask("c", combination="gate", top_k=2) for each in (plain, indexed)
    ]
    assert [source.owner for source in first.sources[0]] == [source.owner for source in second.sources[0]]
    assert len(second.sources[0]) == 2
    assert np.allclose(first.probabilities, second.probabilities, atol=1e-6)


async def test_a_replayable_answer_reads_the_index_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    _, active = both("gate", monkeypatch)
    swarm = SmallSwarm(active)
    swarm.features._trunk = SimpleNamespace(  # type: ignore[assignment]
        flops_per_query=TRUNK_FLOPS, features=lambda rows: rows, device=SimpleNamespace(type="cpu")
    )
    first, second = [await swarm.ask(NAMES, combination="gate", replayable=True) for _ in range(2)]
    assert first.record is not None
    assert first.probabilities.tobytes() == second.probabilities.tobytes()
