"""Ask the live nodes to judge a candidate gate on their own validation data."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from coordinator.live_nodes import LiveNode, LiveNodes
from coordinator.trials import Verdict, is_sound
from swarm.domain.combination import TrialOption
from swarm.domain.errors import NotReadyError, SwarmError
from swarm.domain.ids import NodeId
from swarm.domain.inference import GateTrial

TRIAL_TIMEOUT_S = 90.0
PATIENCE_S, PATIENCE = 45.0, 3.0
"""Once half of the incumbents have answered, the others have so many seconds in all, or so many times as
long as those took."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Who answered, of how many that were to be asked. `trials`: those that have validation data; `silent`:
    those that are connected and did not answer."""

    asked: int
    heard: frozenset[NodeId]
    trials: dict[NodeId, GateTrial]
    silent: frozenset[NodeId] = frozenset()

    def covering(self, verdict: Verdict, remembered: int = 0) -> Verdict:
        """Return the verdict with what it covers; so many that were not heard counted as they found last."""
        judges = f"judges {len(self.trials)} of {self.asked}"
        if remembered:
            judges += f", {remembered} not heard as found last"
        evidence = {**verdict.evidence, "asked": float(self.asked), "heard": float(len(self.heard))}
        if remembered:
            evidence["judges_remembered"] = float(remembered)
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
        silent: frozenset[NodeId] = frozenset(),
        candidate: bytes,
        incumbent: bytes,
        options: Sequence[TrialOption],
        specification: bytes,
    ) -> Heard:
        """Return the sound answers to one round of options; those silent in an earlier one are not asked.

        Raises NotReadyError where nobody answered at all, or more than half of the incumbents that are
        connected did not: no gate comes on the word of those alone whom it concerns least.
        """

        async def ask(node: LiveNode) -> GateTrial | None:
            try:
                trial = await node.link.try_gate(
                    candidate, incumbent, options, specification, self._timeout_s
                )
            except SwarmError as error:
                _say_not_judged(node, str(error))
                return None
            if trial.samples and not is_sound(trial, options):
                _say_not_judged(node, "figures that cannot be true")
                return None
            return trial

        nodes = {node.link.node: node for node in self._live if node.link.node in asked}
        connected = incumbents & nodes.keys()
        tasks = {name: asyncio.create_task(ask(nodes[name])) for name in nodes.keys() - silent}
        try:
            await self._wait(tasks, connected)
        finally:
            late = {name for name, task in tasks.items() if task.cancel()}
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        for name in late:
            _say_not_judged(nodes[name], "others had answered long before")
        answers = {name: task.result() for name, task in tasks.items() if name not in late}
        heard = {name: answer for name, answer in answers.items() if answer is not None}
        if not heard:
            raise NotReadyError(
                "candidate gate",
                found=f"none of {len(asked)} nodes that could try it",
                expected="at least one",
                remedy="see which nodes are connected: swarm status; then try again",
            )
        connected &= {node.link.node for node in self._live}  # who went meanwhile, or was revoked, has no say
        unheard = len(connected - heard.keys())
        if 2 * unheard > len(connected):
            raise NotReadyError(
                "candidate gate",
                found=f"{unheard} of {len(connected)} connected incumbents that could not judge it",
                expected=f"at least half within {self._timeout_s:g} s",
                remedy="try again when they are less busy; the coordinator's log says why each did not",
            )
        trials = {node: trial for node, trial in heard.items() if trial.samples}
        return Heard(
            asked=len(asked),
            heard=frozenset(heard),
            trials=trials,
            silent=frozenset(nodes) - heard.keys(),
        )

    async def _wait(
        self, tasks: Mapping[NodeId, "asyncio.Task[GateTrial | None]"], incumbents: frozenset[NodeId]
    ) -> None:
        """Wait for all, but not for long once half of the incumbents have answered: one that hangs holds up
        everybody's changes."""
        loop = asyncio.get_running_loop()
        started, limit = loop.time(), self._timeout_s
        pending: set[asyncio.Task[GateTrial | None]] = set(tasks.values())
        while pending:
            left = started + limit - loop.time()
            done, pending = await asyncio.wait(
                pending, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return
            answered = sum(name in tasks and _is_sound(tasks[name]) for name in incumbents)
            if limit == self._timeout_s and answered and 2 * answered >= len(incumbents):
                limit = min(limit, max(PATIENCE_S, PATIENCE * (loop.time() - started)))


def _is_sound(task: "asyncio.Task[GateTrial | None]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None and task.result() is not None


def _say_not_judged(node: LiveNode, reason: str) -> None:
    log.warning("gate.not_judged", node=node.link.node, reason=reason)
