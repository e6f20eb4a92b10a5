"""How long a round of trials waits, and for whom; nodes are stubs with the times that they take."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from coordinator import gate_trials
from coordinator.gate_trials import Heard, TrialRound
from coordinator.live_nodes import LiveNodes
from node.gate_trial import no_samples
from swarm.domain.errors import DeadlineError, NotReadyError
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial
from swarm.gating.combinations import FALLBACK

TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Link:
    """A node that answers after `delay_s`, or fails then."""

    node: NodeId
    delay_s: float
    fails: bool

    async def try_gate(self, *_: Any) -> GateTrial:
        await asyncio.sleep(self.delay_s)
        if self.fails:
            raise DeadlineError("trial", found="no answer")
        return no_samples([FALLBACK])


@dataclass(frozen=True)
class Live:
    link: Link


async def run(**delays: float) -> Heard:
    """One round over incumbents with these delays; negative: it fails after as long."""
    nodes = [Live(Link(NodeId(name), abs(delay), delay < 0)) for name, delay in delays.items()]
    names = frozenset(node.link.node for node in nodes)
    return await TrialRound(cast(LiveNodes, nodes), TIMEOUT_S).run(
        asked=names,
        incumbents=names,
        candidate=b"",
        incumbent=b"",
        options=[FALLBACK],
        specification=b"",
    )


@pytest.fixture(autouse=True)
def hardly_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_trials, "PATIENCE_S", 0.2)


async def test_once_half_have_answered_a_straggler_is_not_waited_for() -> None:
    heard = await run(ada=0.0, bob=30.0)
    assert (heard.heard, heard.silent) == ({"ada"}, {"bob"})


async def test_who_fails_has_not_answered_and_takes_nobodys_time() -> None:
    heard = await run(ada=-0.001, bob=0.8)
    assert (heard.heard, heard.silent) == ({"bob"}, {"ada"})
    heard = await run(ada=-0.001, bob=0.01, cyd=0.8, dan=0.8)
    assert len(heard.heard) == 3


async def test_with_more_than_half_unheard_no_gate_comes() -> None:
    with pytest.raises(NotReadyError, match="2 of 3 connected incumbents"):
        await run(ada=0.0, bob=-0.001, cyd=-0.001)
