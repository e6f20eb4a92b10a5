"""Ask the live nodes to judge a candidate gate on their own validation data."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog

from coordinator.live_nodes import LiveNode, LiveNodes
from coordinator.trials import Verdict, is_sound, judge_trials
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial

TRIAL_TIMEOUT_S = 45.0

log = structlog.get_logger()


class TrialRound:
    """One round over everyone concerned that is connected. Who does not answer in time has no say in it."""

    def __init__(self, live: LiveNodes, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
        self._live, self._timeout_s = live, timeout_s

    async def run(
        self,
        *,
        asked: frozenset[NodeId],
        incumbents: frozenset[NodeId],
        candidate: bytes,
        incumbent: bytes,
        temperatures: Sequence[float],
        default_temperature: float,
        specification: bytes,
    ) -> Verdict:
        """Return the verdict; its evidence says how many of the nodes concerned were heard.

        Raises NotReadyError where nobody answered at all: a gate that nobody tried does not come.
        """

        async def ask(node: LiveNode) -> GateTrial | None:
            try:
                trial = await node.link.try_gate(
                    candidate, incumbent, temperatures, specification, self._timeout_s
                )
            except SwarmError as error:
                log.warning("gate.not_judged", node=node.link.node, reason=str(error))
                return None
            if trial.samples and not is_sound(trial, temperatures):
                log.warning("gate.not_judged", node=node.link.node, reason="figures that cannot be true")
                return None
            return trial

        nodes = [node for node in self._live if node.link.node in asked]
        answers = await asyncio.gather(*(ask(node) for node in nodes))
        heard = {
            node.link.node: answer for node, answer in zip(nodes, answers, strict=True) if answer is not None
        }
        if not heard:
            raise NotReadyError(
                "candidate gate",
                found=f"none of {len(asked)} nodes that could try it",
                expected="at least one",
                remedy="see which nodes are connected: swarm status; then try again",
            )
        trials = {node: trial for node, trial in heard.items() if trial.samples}
        verdict = judge_trials(trials, incumbents, temperatures, default_temperature)
        return replace(verdict, evidence={**verdict.evidence, "asked": float(len(asked))})
