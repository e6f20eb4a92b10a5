"""Growth on the wire: nothing is lost, and what cannot be right is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError
from swarm.domain.growth import (
    KINDS,
    MAX_EXPERTS,
    MERGE_METHODS,
    NODE_OPTIONS,
    SPLIT_GATES,
    GrowthOrder,
    GrowthReport,
    LeafSurvey,
    Proposal,
    Survey,
)
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.domain.manifests import MAX_VERSION
from swarm.rpc.convert import growth as convert
from swarm.rpc.convert.growth import MAX_FIGURES, MAX_REASON, MAX_SAMPLES, MAX_VERSIONS
from swarm.rpc.pb import expert_pb2, growth_pb2
from tests.support.rpc import growth_order, proposal, survey

A = digest_of(b"a")
VERSIONS = st.integers(0, MAX_VERSION)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=80)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FIGURES = st.dictionaries(WORDS.filter(bool), FINITE, max_size=8)
COSTS = st.dictionaries(WORDS.filter(bool), FINITE.map(abs), max_size=8)
EXPERTS = st.lists(st.integers(0, 99), unique=True, max_size=5).map(
    lambda numbers: tuple(ExpertId(f"ada.e{number}") for number in numbers)
)
DIGESTS = st.sampled_from(["", A])


def _options(kind: str) -> st.SearchStrategy[dict[str, str]]:
    known = {
        "gate": st.sampled_from(SPLIT_GATES),
        "method": st.sampled_from(MERGE_METHODS),
        "steps": st.integers(1, 10**9).map(str),
        "k": st.integers(1, 4096).map(str),
        "net": st.sampled_from(["cnn", "mlp:16x1"]),
    }
    names = NODE_OPTIONS[kind]  # type: ignore[index]
    return st.fixed_dictionaries({}, optional={name: known[name] for name in names})


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_proposal_and_any_order_cross_unchanged(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    common: dict[str, Any] = {
        "kind": kind,
        "experts": data.draw(EXPERTS),
        "gate_version": data.draw(VERSIONS),
        "options": data.draw(_options(kind)),
        "before": data.draw(DIGESTS),
    }
    made = Proposal(
        id=f"p{data.draw(VERSIONS)}",
        owner=NodeId("ada"),
        by=data.draw(st.sampled_from(["policy", "operator", "ada"])),
        created_at=data.draw(st.floats(0, 1e12)),
        changed_at=data.draw(st.floats(0, 1e12)),
        state=data.draw(st.sampled_from(["open", "working", "trying", "accepted", "rolled-back", "failed"])),
        reason=data.draw(WORDS),
        evidence=data.draw(FIGURES),
        cost=data.draw(COSTS),
        gate_versions=tuple(data.draw(st.lists(VERSIONS, max_size=4))),
        **common,
    )
    assert convert.proposal_from_pb(convert.proposal_to_pb(made)) == made
    regions = data.draw(st.binary(max_size=64)) if kind == "add" else b""
    order = GrowthOrder(proposal=made.id, regions=regions, **common)
    assert convert.growth_order_from_pb(convert.growth_order_to_pb(order)) == order


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_survey_crosses_unchanged(data: st.DataObject) -> None:
    def leaf(number: int) -> LeafSurvey:
        samples = data.draw(st.integers(0, MAX_SAMPLES))
        return LeafSurvey(
            leaf=LeafId(f"ada.l{number}"),
            samples=samples,
            nll_sum=data.draw(FINITE.map(abs)),
            correct=data.draw(st.integers(0, samples)),
            novel=data.draw(st.integers(0, samples)),
        )

    fresh = data.draw(st.integers(0, MAX_SAMPLES))
    made = Survey(
        gate_version=data.draw(VERSIONS),
        leaves=tuple(map(leaf, range(data.draw(st.integers(0, 4))))),
        fresh=fresh,
        fresh_novel=data.draw(st.integers(0, fresh)),
    )
    assert convert.survey_from_pb(convert.survey_to_pb(made)) == made


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_a_value_or_refused_by_name(data: bytes) -> None:
    readers: list[tuple[Any, Callable[[Any], object]]] = [
        (growth_pb2.Proposal, convert.proposal_from_pb),
        (growth_pb2.GrowthOrder, convert.growth_order_from_pb),
        (growth_pb2.ReportRequest, convert.growth_report_from_pb),
        (expert_pb2.SurveyReply, convert.survey_from_pb),
    ]
    for message, read in readers:
        try:
            read(message.FromString(data))
        except (DecodeError, InvalidInputError):
            continue


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"id": ""}, "proposal: found ''"),
        ({"id": "p" * 65}, "proposal: found 'ppp"),
        ({"id": "../p1"}, "proposal: found '../p1'"),
        ({"id": "p1\n"}, "proposal: found"),
        ({"kind": "grow"}, "kind: found 'grow'; expected add, split, merge"),
        ({"state": "done"}, "state: found 'done'; expected open"),
        ({"owner": "Ada!"}, "node name"),
        ({"by": "\x1b[2J"}, "node name"),
        ({"experts": ["ada.l1"]}, r"expert id: found ada\.l1"),
        ({"experts": ["ada.e1", "ada.e1"]}, "experts: found 2, 1 of them distinct"),
        ({"experts": [f"ada.e{n}" for n in range(MAX_EXPERTS + 1)]}, f"at most {MAX_EXPERTS}"),
        ({"gate_version": MAX_VERSION + 1}, "gate_version: found"),
        ({"created_at": NAN}, "created_at: found nan"),
        ({"changed_at": INFINITE}, "changed_at: found inf"),
        ({"created_at": -1.0}, "created_at: found -1"),
        ({"options": {"method": "ties"}}, "split, option 'method'"),
        ({"options": {"gate": "best"}}, "split, gate: found 'best'; expected means or learned"),
        ({"options": {"steps": "-5"}}, "split, steps: found '-5'"),
        ({"options": {"steps": "1" * 20}}, "split, steps"),
        ({"reason": "x" * (MAX_REASON + 1)}, f"reason: .*at most {MAX_REASON}"),
        ({"reason": "fine\x1b[2J"}, "reason: "),
        ({"evidence": {"z": NAN}}, "evidence z: found nan"),
        ({"evidence": {"": 1.0}}, "evidence: found the name ''"),
        ({"evidence": {"a\nb": 1.0}}, r"evidence: found the name 'a\\nb'"),
        ({"evidence": {f"f{n}": 1.0 for n in range(MAX_FIGURES + 1)}}, f"at most {MAX_FIGURES}"),
        ({"cost": {"train_flops": -1.0}}, "cost train_flops: found -1"),
        ({"cost": {"train_flops": INFINITE}}, "cost train_flops: found inf"),
        ({"before": "abc"}, "digest"),
        ({"gate_versions": [1] * (MAX_VERSIONS + 1)}, "gate_versions: found"),
        ({"gate_versions": [MAX_VERSION + 1]}, "gate_version: found"),
    ],
)
def test_a_proposal_that_cannot_be_right_is_refused_by_its_field(changes: dict[str, Any], text: str) -> None:
    good = convert.proposal_to_pb(proposal())
    fields = {field.name: getattr(good, field.name) for field in good.DESCRIPTOR.fields}
    with pytest.raises(InvalidInputError, match=text) as refused:
        convert.proposal_from_pb(growth_pb2.Proposal(**{**fields, **changes}))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"proposal": " "}, "proposal: found ' '"),
        ({"kind": ""}, "kind: found ''"),
        ({"experts": ["ada"]}, "expert or leaf id"),
        ({"gate_version": MAX_VERSION + 1}, "gate_version"),
        ({"before": "A" * 64}, "digest"),
        ({"options": {"colour": "red"}}, "split, option 'colour'"),
    ],
)
def test_an_order_that_cannot_be_right_is_refused_by_its_field(changes: dict[str, Any], text: str) -> None:
    good = convert.growth_order_to_pb(growth_order())
    fields = {field.name: getattr(good, field.name) for field in good.DESCRIPTOR.fields}
    with pytest.raises(InvalidInputError, match=text):
        convert.growth_order_from_pb(growth_pb2.GrowthOrder(**{**fields, **changes}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"samples": -1}, r"samples of ada\.l0: found -1"),
        ({"samples": MAX_SAMPLES + 1}, r"samples of ada\.l0"),
        ({"nll_sum": NAN}, r"nll_sum of ada\.l0: found nan"),
        ({"nll_sum": -0.5}, r"nll_sum of ada\.l0: found -0\.5"),
        ({"correct": 21}, r"correct of ada\.l0: found 21; expected 0 to 20"),
        ({"novel": -3}, r"novel of ada\.l0: found -3"),
        ({"leaf": LeafId("ada.e0")}, r"expert or leaf id: found ada\.e0"),
    ],
)
def test_a_leafs_survey_that_cannot_be_right_is_refused_by_name(changes: dict[str, Any], text: str) -> None:
    wrong = replace(survey(), leaves=(replace(survey().leaves[0], **changes),))
    with pytest.raises(InvalidInputError, match=text):
        convert.survey_from_pb(convert.survey_to_pb(wrong))


def test_a_survey_with_a_leaf_twice_or_more_novel_than_fresh_is_refused() -> None:
    twice = replace(survey(), leaves=survey().leaves * 2)
    with pytest.raises(InvalidInputError, match="leaves: found a leaf twice"):
        convert.survey_from_pb(convert.survey_to_pb(twice))
    with pytest.raises(InvalidInputError, match="fresh_novel: found 9; expected 0 to 5"):
        convert.survey_from_pb(convert.survey_to_pb(replace(survey(), fresh=5, fresh_novel=9)))


def test_a_reason_in_many_lines_is_reported_as_one_that_prints() -> None:
    report = GrowthReport(proposal="p1", stage="failed", reason="out of\nmemory\x1b[2J" + "x" * 1000)
    message = convert.growth_report_to_pb(report, "k")
    back = convert.growth_report_from_pb(message)
    assert back.reason.startswith("out of memory [2Jxxx") and len(back.reason) == MAX_REASON
    message.stage = "nearly"
    with pytest.raises(InvalidInputError, match="stage: found 'nearly'; expected started, split"):
        convert.growth_report_from_pb(message)


def test_a_policy_that_is_none_is_refused_by_name() -> None:
    assert convert.growth_policy("eager") == "eager"
    with pytest.raises(InvalidInputError, match="growth: found 'wild'; expected manual, conservative, eager"):
        convert.growth_policy("wild")
