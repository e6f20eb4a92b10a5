"""Whether a proposal may be made: pure rules, each refusal with what was found and expected."""

from collections.abc import Container, Iterable, Sequence

from swarm.domain.contributions import Contribution
from swarm.domain.errors import ConflictError, InvalidInputError, NotAuthorisedError, NotFoundError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.growth import Proposal, ProposalKind
from swarm.domain.ids import ExpertId, NodeId, expert_of, owner_of
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification

LOOK_AGAIN = "look at the gate again and propose anew: swarm gate show"


def owner_for(
    kind: ProposalKind, experts: Sequence[ExpertId], caller: Caller, owner: NodeId | None = None
) -> NodeId:
    """Return who is to carry a proposal out; InvalidInputError for experts that its kind does not take.

    `owner` names whose an add is. A merge of several owners' experts is refused: no owner may publish what is
    made of another's for a leaf of its own yet, nor give another's sums.
    """
    subject = f"{kind} of {' and '.join(experts) or 'nothing'}"
    wanted = {"add": (0, 1), "split": (1, 1), "merge": (2, 2)}.get(kind, (1, 1 << 10))
    if not wanted[0] <= len(experts) <= wanted[1] or len(set(experts)) < len(experts):
        words = {"merge": "two different experts", "split": "one expert", "add": "at most one expert"}
        raise InvalidInputError(
            subject, found=f"{len(experts)} experts", expected=words.get(kind, "distinct experts")
        )
    if owner is not None and kind != "add":
        raise InvalidInputError(subject, found=f"the owner {owner}", expected="the experts' own")
    if not experts:
        if owner is None and caller.role != "node":
            raise InvalidInputError(
                subject,
                found="no owner",
                expected="the node that shall add a leaf",
                remedy="name it: swarm expert add --node NODE",
            )
        return owner or caller.id
    owners = list(dict.fromkeys([*(owner_of(expert) for expert in experts), *([owner] if owner else [])]))
    if len(owners) > 1:
        raise InvalidInputError(
            subject,
            found=f"experts of {' and '.join(owners)}",
            expected="experts of one owner",
            remedy="sums cannot change their owner: let one of them borrow from the other instead"
            if kind == "merge"
            else "propose it for each owner by itself",
        )
    return owners[0]


def check_caller(caller: Caller, owner: NodeId, subject: str) -> None:
    """Raise NotAuthorisedError unless an operator calls, or the owner itself."""
    if caller.role != "operator" and caller.id != owner:
        raise NotAuthorisedError(
            subject, found=f"asked by {caller.role} {caller.id}", expected=f"{owner} or an operator"
        )


def check_version(gate: GateStatement, gate_version: int) -> None:
    """Raise ConflictError where a proposal was made against another gate than the present one."""
    if gate_version not in (0, gate.version):
        raise ConflictError(
            f"proposal against gate {gate_version}", found=f"gate {gate.version}", remedy=LOOK_AGAIN
        )


def leaves_for(gate: GateStatement, experts: Iterable[ExpertId]) -> list[GateLeaf]:
    """Return the leaves of these experts in the present gate; NotFoundError for one that it has not."""
    by_expert = {leaf.expert: leaf for leaf in gate.leaves}
    branches = {expert_of(branch.leaf): branch.leaf for branch in gate.branches}
    found = []
    for expert in experts:
        if expert not in by_expert:
            parents = {each.leaf: each.parent for each in gate.branches}
            parents |= {each.leaf: each.parent for each in gate.leaves}
            children = sorted(leaf for leaf, parent in parents.items() if parent == branches.get(expert, "-"))
            split = f": it was split into {' and '.join(children)}" if children else ""
            raise NotFoundError(
                f"expert {expert}",
                found=f"no leaf of it in gate {gate.version}{split}",
                expected="an expert that has one",
                remedy="list them: swarm gate show",
            )
        found.append(by_expert[expert])
    return found


def check_retrained(gate: GateStatement, experts: Iterable[ExpertId], heads: Container[ExpertId]) -> None:
    """Raise NotFoundError for an expert that was split, or that has neither a leaf in the present gate nor a
    version (`heads`): what no gate has its owner may train anew too."""
    split = {expert_of(branch.leaf) for branch in gate.branches}
    leaves_for(gate, [expert for expert in experts if expert in split or expert not in heads])


def check_free(open_proposals: Iterable[Proposal], experts: Iterable[ExpertId], owner: NodeId) -> None:
    """Raise ConflictError where one of the experts, or their owner, has a proposal that has not ended."""
    wanted = set(experts)
    for each in open_proposals:
        shared = sorted(wanted & set(each.experts))
        if shared or each.owner == owner:
            raise ConflictError(
                f"expert {shared[0]}" if shared else f"owner {owner}",
                found=f"the {each.subject}, which is {each.state}",
                expected="one proposal at a time",
                remedy=f"wait for it, or end it: swarm gate cancel {each.id}",
            )


def samples_of(experts: Sequence[ExpertId], contribution: Contribution) -> int:
    """Return how many samples these experts' leaves stand for."""
    own = [leaf for leaf in contribution.leaves if leaf.expert in experts]
    return sum(sum(leaf.class_counts.values()) for leaf in own)


def check_counts(
    kind: ProposalKind, experts: Sequence[ExpertId], given: Contribution, specification: Specification
) -> None:
    """Raise InvalidInputError where the owner gave too few samples for it, or has too many leaves."""
    smallest, most = specification.min_leaf_count, specification.max_leaves_per_owner
    if kind in ("split", "add") and len(given.leaves) >= most:
        raise InvalidInputError(
            f"{kind} for {given.owner}",
            found=f"{len(given.leaves)} leaves already",
            expected=f"fewer than {most}",
        )
    if kind != "split":
        return
    for leaf in given.leaves:
        samples = sum(leaf.class_counts.values())
        if leaf.expert in experts and samples < 2 * smallest:
            raise InvalidInputError(
                f"split of {leaf.expert}",
                found=f"{samples} samples",
                expected=f"at least {2 * smallest}, {smallest} for each child",
                remedy="train on more data first",
            )
