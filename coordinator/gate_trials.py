"""Ask the live nodes to judge a candidate gate on their own validation data."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from coordinator.live_nodes import LiveNode, LiveNodes
from coordinator.trials import Verdict, is_sound
from swarm.domain.combination import TrialOption
from swarm.domain.errors import DeadlineError, NotReadyError, SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial

TRIAL_TIMEOUT_S = 90.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Who answered, of how many that were to be asked. `trials`: those that have validation data."""

    asked: int
    heard: int
    trials: dict[NodeId, GateTrial]

    def covering(self, verdict: Verdict) -> Verdict:
        """Return the verdict with what it covers."""
        judges = f"judges {len(self.trials)} of {self.asked}"
        evidence = {**verdict.evidence, "asked": float(self.asked), "heard": float(self.heard)}
        return replace(verdict, evidence=evidence, reason=f"{verdict.reason}; {judges}")


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
        options: Sequence[TrialOption],
        specification: bytes,
    ) -> Heard:
        """Return the sound answers to one round of options.

        Raises NotReadyError where nobody answered at all, or more than half of the incumbents that are
        connected did not in time: a gate that those whom it concerns had no time to try does not come.
        """
        late: set[NodeId] = set()

        async def ask(node: LiveNode) -> GateTrial | None:
            try:
                trial = await node.link.try_gate(
                    candidate, incumbent, options, specification, self._timeout_s
                )
            except SwarmError as error:
                if isinstance(error, DeadlineError):
                    late.add(node.link.node)
                log.warning("gate.not_judged", node=node.link.node, reason=str(error))
                return None
            if trial.samples and not is_sound(trial, options):
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
        connected = incumbents & {node.link.node for node in nodes}
        slow = len(late & incumbents)
        if 2 * slow > len(connected):
            raise NotReadyError(
                "candidate gate",
                found=f"{slow} of {len(connected)} connected incumbents too slow to judge it",
                expected=f"at least half within {self._timeout_s:g} s",
                remedy="try again when they are less busy; an expert that is slow to ask delays everybody",
            )
        trials = {node: trial for node, trial in heard.items() if trial.samples}
        return Heard(asked=len(asked), heard=len(heard), trials=trials)
