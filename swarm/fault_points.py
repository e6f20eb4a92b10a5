"""Named steps at which a test may kill a process: `SWARM_FAULT_POINT=registry.commit.stored:2` ends it with
SIGKILL when it reaches that step the second time. Without the variable `reached` does nothing.

Every step between two durable changes of a publish, a join, an adoption, an addition, a removal, a proposal,
an announcement, a rebuild or a collection is in `FAULT_POINTS`, with the process that passes it; `reached`
refuses other names. `node.publish.sent:1:stop` freezes the process there (SIGSTOP) instead.
"""

import itertools
import os
import signal
from dataclasses import dataclass
from typing import Final, Literal

Side = Literal["registry", "node", "coordinator"]
VARIABLE: Final = "SWARM_FAULT_POINT"

FAULT_POINTS: Final[dict[str, Side]] = {
    # publish: a blob, then the manifest
    "registry.blob.written": "registry",
    "registry.blob.before_sync": "registry",
    "registry.blob.before_rename": "registry",
    "registry.blob.after_rename": "registry",
    "registry.blob.durable": "registry",
    "registry.commit.admitted": "registry",
    "registry.commit.stored": "registry",
    "registry.commit.journaled": "registry",
    "registry.journal.before_sync": "registry",
    # remove
    "registry.withdraw.verified": "registry",
    "registry.withdraw.stored": "registry",
    "registry.withdraw.journaled": "registry",
    # announce, and bring back for a rebuild
    "registry.announce.restored": "registry",
    "registry.announce.journaled": "registry",
    "registry.bring_back.stored": "registry",
    "registry.bring_back.journaled": "registry",
    # garbage collection
    "registry.collect.marked": "registry",
    "registry.collect.removing": "registry",
    "registry.collect.removed": "registry",
    # publish and add, on the node
    "node.outbox.linked": "node",
    "node.outbox.written": "node",
    "node.publish.began": "node",
    "node.publish.blob_sent": "node",
    "node.publish.sent": "node",
    "node.publish.committed": "node",
    "node.publish.kept": "node",
    "node.publish.noted": "node",
    "node.outbox.before_done": "node",
    "node.outbox.done": "node",
    # join, on the coordinator: a token, its use, the new member
    "coordinator.token.made": "coordinator",
    "coordinator.token.booked": "coordinator",
    "coordinator.token.used": "coordinator",
    "coordinator.join.recorded": "coordinator",
    "coordinator.join.registered": "coordinator",
    # adopt, and remove, on the coordinator
    "coordinator.contribution.kept": "coordinator",
    "coordinator.specification.stored": "coordinator",
    "coordinator.gate.signed": "coordinator",
    "coordinator.gate.stored": "coordinator",
    "coordinator.gate.kept": "coordinator",
    "coordinator.root.committed": "coordinator",
    "coordinator.leave.withdrawn": "coordinator",
    "coordinator.leave.gate_made": "coordinator",
    "coordinator.leave.revoked": "coordinator",
    "coordinator.revocation.kept": "coordinator",
    "coordinator.fence.granted": "coordinator",
    # a proposal, on the coordinator
    "coordinator.growth.recorded": "coordinator",
    "coordinator.growth.remembered": "coordinator",
    "coordinator.growth.ordered": "coordinator",
    "coordinator.growth.gate_made": "coordinator",
}


@dataclass(slots=True)
class _Aim:
    name: str = ""
    count: int = 1
    how: signal.Signals = signal.SIGKILL


_aim = _Aim()
_passed = itertools.count(1)


def aim(at: str) -> None:
    """Aim at a step as the variable does: for a process that was forked from one without it."""
    name, _, rest = at.partition(":")
    count, _, how = rest.partition(":")
    _aim.name, _aim.count = name, int(count or 1)
    _aim.how = signal.SIGSTOP if how == "stop" else signal.SIGKILL


aim(os.environ.get(VARIABLE, ""))


def reached(name: str) -> None:
    """End this process at once, as a crash would, or freeze it, if this is the step and the time that was
    asked for."""
    if not _aim.name:
        return
    if name not in FAULT_POINTS:
        raise ValueError(f"{name} is no fault point")
    if name == _aim.name and next(_passed) == _aim.count:
        os.kill(os.getpid(), _aim.how)
