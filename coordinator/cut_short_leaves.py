"""Which members are half out: a crash came between the steps of their leave or revocation."""

from coordinator.heads import Heads
from coordinator.members import Members
from coordinator.revocations import Revocations
from swarm.answering.active_gate import ActiveGate
from swarm.domain.ids import NodeId
from swarm.domain.members import Tombstone


async def cut_short_leaves(
    heads: Heads, members: Members, revocations: Revocations, active: ActiveGate | None, signing_key: str
) -> list[tuple[NodeId, str]]:
    """Return them, each with the reason that was given for it, as far as that is known.

    `signing_key` is the coordinator's: a node's own tombstone withdraws its experts, and it stays a member.
    Raises UnreachableError while the store is away and a signer is not known here.
    """
    in_gate = {leaf.owner for leaf in active.value.leaves} if active is not None else set()
    found = []
    for node, envelope in heads.left().items():
        if revocations.is_revoked(node) and node not in in_gate:
            continue
        statement = await members.open(envelope, Tombstone)
        if statement.key_id == signing_key:
            found.append((node, statement.value.reason))
    found += [(node, "revoked") for node in revocations.nodes() if not heads.has_left(node)]
    return found
