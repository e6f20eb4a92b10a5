"""How a query is answered: by which of its gate's combinations, with or without experts."""

from dataclasses import dataclass, replace

from swarm.answering.active_gate import ActiveGate
from swarm.domain.combination import USES_EXPERTS, USES_SUMS, Combination
from swarm.domain.errors import InvalidInputError
from swarm.domain.gates import GateStatement
from swarm.domain.inference import ExpertForm, Query

OF_SOME_OWNERS = ("gate", "prototypes")
"""The combinations that can be restricted to some owners: class scores are of all owners' sums."""
EVENLY = Combination(name="prototypes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One query's combination. `evenly`: all experts alike, no gate; `falls_back`: to the root at need."""

    combination: Combination
    evenly: bool = False
    falls_back: bool = False

    @property
    def label(self) -> str:
        """A name for people: `gate top-2`, `uniform`."""
        return "uniform" if self.evenly else self.combination.label

    @property
    def form(self) -> ExpertForm:
        return "corrections" if self.combination.name == "corrected" else "probabilities"

    @property
    def asks_experts(self) -> bool:
        return self.evenly or self.combination.name in USES_EXPERTS

    @property
    def uses_sums(self) -> bool:
        return not self.evenly and self.combination.name in USES_SUMS


def choose_way(query: Query, active: ActiveGate) -> Way:
    """Return how to answer the query with this gate.

    Among some owners only `gate` and `prototypes` mean anything; where the gate serves another combination,
    `gate` takes its place, or `prototypes` where those owners gave no sums. Raises InvalidInputError for
    what does not go together, NotFoundError for a combination that this gate has not.
    """
    gate = active.value
    if query.uniform:
        if query.combination:
            raise InvalidInputError(
                f"combination {query.combination}",
                found="together with uniform",
                expected="one of them: uniform asks all experts alike",
            )
        return Way(combination=EVENLY, evenly=True)
    if not query.owners:
        return Way(
            combination=gate.combination(query.combination, query.top_k),
            falls_back=active.analytic is not None,
        )
    if query.combination and query.combination not in OF_SOME_OWNERS:
        raise InvalidInputError(
            f"combination {query.combination}",
            found=f"together with owners {', '.join(query.owners[:5])}",
            expected=f"{' or '.join(OF_SOME_OWNERS)}: class scores are of all owners' sums",
            remedy="leave out the owners or the combination",
        )
    with_sums = not active.leaf_index.with_columns.isdisjoint(query.owners)
    if query.combination == "gate" and not with_sums:
        raise InvalidInputError(
            "combination gate",
            found=f"no sums of {', '.join(query.owners[:5])} in gate {active.version}",
            expected="owners that gave sums, or prototypes",
        )
    # Validation data spoke of all owners together.
    return Way(combination=replace(_among_owners(query, gate, with_sums), calibration=0.0))


def _among_owners(query: Query, gate: GateStatement, with_sums: bool) -> Combination:
    """Without a name, their own mixture: the served one if it is theirs to give, else by the most experts."""
    served = gate.combination().name
    if query.combination or served == "prototypes" or (served == "gate" and with_sums):
        return gate.combination(query.combination, query.top_k)
    names = {each.name for each in gate.combinations}
    name = "gate" if with_sums and "gate" in names else "prototypes"
    widest = max((each.top_k for each in gate.combinations if each.name == name), default=0)
    return gate.combination(name, query.top_k or widest)
