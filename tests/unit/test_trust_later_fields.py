"""Statements signed before a field existed stay what they were: same value, same text, same digest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from swarm.domain.contributions import BranchContribution, Contribution
from swarm.domain.errors import VerificationError
from swarm.domain.gates import GateBranch, GateChange, GateStatement
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.trust.codec import to_json
from swarm.trust.signing import Signer
from swarm.trust.statements import open_statement, read_statement, sign_statement
from tests.support.trust import contribution, gate, tensor
from tests.unit.test_trust_statements import envelope_of, payload_of

SIGNER = Signer.from_hex("11" * 32)
STORED = json.loads((Path(__file__).parents[1] / "support" / "statements_before_growth.json").read_text())
A = "a" * 64


def grown_contribution() -> Contribution:
    first = contribution().leaves[0]
    leaves = tuple(
        replace(first, leaf=LeafId(f"ada.l{n}"), expert=ExpertId(f"ada.e{n}"), parent="ada.l1", manifest=A)
        for n in (2, 3)
    )
    branch = BranchContribution(
        leaf=LeafId("ada.l1"),
        prototypes=first.prototypes,
        prototype_counts=first.prototype_counts,
        radii=first.radii,
        split=tensor("split", (5,)),
    )
    return replace(contribution(), leaves=leaves, branches=(branch,), proposal="p3")


def grown_gate() -> GateStatement:
    first = gate().leaves[0]
    leaves = tuple(
        replace(first, leaf=LeafId(f"ada.l{n}"), expert=ExpertId(f"ada.e{n}"), parent="ada.l1", manifest=A)
        for n in (2, 3)
    )
    return replace(
        gate(2),
        leaves=leaves,
        branches=(GateBranch(leaf=LeafId("ada.l1"), owner=NodeId("ada"), is_learned=True),),
        change=GateChange(kind="split", proposal="p3", cost={"train_flops": 1e9}),
    )


@pytest.mark.parametrize(("name", "value"), [("contribution", contribution()), ("gate", gate())])
def test_a_statement_from_before_growth_opens_and_would_be_signed_the_same_again(
    name: str, value: object
) -> None:
    envelope = STORED[name].encode()
    assert open_statement(envelope, type(value), SIGNER.public_hex).value == value
    assert sign_statement(value, SIGNER) == envelope


@pytest.mark.parametrize("value", [grown_contribution(), grown_gate()], ids=["contribution", "gate"])
def test_a_statement_that_has_grown_opens_to_the_same_value(value: object) -> None:
    envelope = sign_statement(value, SIGNER)
    assert open_statement(envelope, type(value), SIGNER.public_hex).value == value
    assert read_statement(envelope, type(value)).value == value


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (replace(contribution(), proposal="p3"), {"proposal"}),
        (replace(gate(), change=GateChange(kind="fit")), {"change"}),
        (replace(gate(), change=GateChange(kind="contribute", cost={"train_flops": 1.0})), {"change"}),
    ],
)
def test_only_what_says_something_is_in_the_text(value: object, fields: set[str]) -> None:
    plain = contribution() if isinstance(value, Contribution) else gate()
    assert set(json.loads(to_json(value))) - set(json.loads(to_json(plain))) == fields


@pytest.mark.parametrize("field", ["branches", "proposal"])
def test_a_later_field_written_out_at_its_default_is_another_text_and_is_refused(field: str) -> None:
    payload = json.loads(payload_of(sign_statement(contribution(), SIGNER)))
    payload["predicate"][field] = [] if field == "branches" else ""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(VerificationError, match="canonical JSON"):
        open_statement(envelope_of(text), Contribution, SIGNER.public_hex)
