"""Growth: proposals, orders, reports, surveys. What people read of them is one printable line each."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast, get_args

from swarm.domain.errors import InvalidInputError
from swarm.domain.growth import (
    KINDS,
    MAX_EXPERTS,
    MAX_REGIONS_BYTES,
    POLICIES,
    GrowthOrder,
    GrowthPolicy,
    GrowthReport,
    GrowthStage,
    LeafSurvey,
    Proposal,
    ProposalKind,
    ProposalState,
    Survey,
    checked_options,
)
from swarm.domain.ids import ExpertId, digest, node_id
from swarm.domain.manifests import MAX_VERSION
from swarm.rpc.convert.scalars import expert_id, finite, leaf_id
from swarm.rpc.pb import expert_pb2, growth_pb2

MAX_LEAVES = 65536
MAX_FIGURES = 64
MAX_VERSIONS = 1024
MAX_REASON = 500
MAX_SAMPLES = 10**12
"""Figures of thousands of nodes are added up: what cannot be true must not overflow the sums."""
_PROPOSAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_NAME = 80

Word = TypeVar("Word", bound=str)


def proposal_id(text: str) -> str:
    """Return text as a proposal's id; InvalidInputError unless it is 1 to 64 of letters, digits, `._-`."""
    if not _PROPOSAL.fullmatch(text):
        raise InvalidInputError(
            "proposal",
            found=ascii(text[:40]),
            expected="an id such as p3",
            remedy="list them: swarm gate proposals --all",
        )
    return text


def proposal_kind(text: str) -> ProposalKind:
    """Return text as a kind of proposal; InvalidInputError where there is none of that name."""
    return _word(text, "kind", KINDS)


def growth_policy(text: str) -> GrowthPolicy:
    """Return text as a policy of growth; InvalidInputError where there is none of that name."""
    return _word(text, "growth", POLICIES)


def growth_experts(texts: Iterable[str]) -> tuple[ExpertId, ...]:
    """Return the distinct experts of a proposal; InvalidInputError for one twice or more than MAX_EXPERTS."""
    found = tuple(map(expert_id, texts))
    if len(found) > MAX_EXPERTS or len(set(found)) != len(found):
        raise InvalidInputError(
            "experts",
            found=f"{len(found)}, {len(set(found))} of them distinct",
            expected=f"at most {MAX_EXPERTS}, each once",
        )
    return found


def proposal_to_pb(value: Proposal) -> growth_pb2.Proposal:
    return growth_pb2.Proposal(
        id=value.id,
        kind=value.kind,
        experts=value.experts,
        owner=value.owner,
        gate_version=value.gate_version,
        by=value.by,
        created_at=value.created_at,
        changed_at=value.changed_at,
        options=dict(value.options),
        state=value.state,
        reason=_line(value.reason),
        evidence={name: float(figure) for name, figure in value.evidence.items()},
        cost={name: float(figure) for name, figure in value.cost.items()},
        before=value.before,
        gate_versions=value.gate_versions,
        why=_line(value.why),
    )


def proposal_from_pb(message: growth_pb2.Proposal) -> Proposal:
    """Return the proposal; its words are known ones, its figures finite, its costs not negative."""
    kind = proposal_kind(message.kind)
    if len(message.gate_versions) > MAX_VERSIONS:
        raise InvalidInputError(
            "gate_versions", found=f"{len(message.gate_versions)}", expected=f"at most {MAX_VERSIONS}"
        )
    return Proposal(
        id=proposal_id(message.id),
        kind=kind,
        experts=growth_experts(message.experts),
        owner=node_id(message.owner),
        gate_version=_version(message.gate_version),
        by=node_id(message.by),
        created_at=_not_negative(message.created_at, "created_at"),
        changed_at=_not_negative(message.changed_at, "changed_at"),
        options=checked_options(kind, message.options),
        state=_word(message.state, "state", cast(tuple[ProposalState, ...], get_args(ProposalState))),
        reason=_reason(message.reason),
        evidence=_figures(message.evidence, "evidence"),
        cost={
            name: _not_negative(value, f"cost {name}")
            for name, value in _figures(message.cost, "cost").items()
        },
        before=digest(message.before) if message.before else "",
        gate_versions=tuple(map(_version, message.gate_versions)),
        why=_reason(message.why),
    )


def growth_order_to_pb(value: GrowthOrder) -> growth_pb2.GrowthOrder:
    return growth_pb2.GrowthOrder(
        proposal=value.proposal,
        kind=value.kind,
        experts=value.experts,
        gate_version=value.gate_version,
        before=value.before,
        options=dict(value.options),
        regions=value.regions,
    )


def growth_order_from_pb(message: growth_pb2.GrowthOrder) -> GrowthOrder:
    """Return the order; its kind is a known one and has its options."""
    kind = proposal_kind(message.kind)
    return GrowthOrder(
        proposal=proposal_id(message.proposal),
        kind=kind,
        experts=growth_experts(message.experts),
        gate_version=_version(message.gate_version),
        before=digest(message.before) if message.before else "",
        options=checked_options(kind, message.options),
        regions=regions_of(kind, message.regions),
    )


def regions_of(kind: ProposalKind, data: bytes) -> bytes:
    """Return the regions that come with a proposal; InvalidInputError for too many bytes, and where the kind
    takes none. Whether they are regions is found where the specification is known."""
    if data and kind != "add":
        raise InvalidInputError(
            f"{kind}, regions", found=f"{len(data)} bytes", expected="regions for an add alone"
        )
    if len(data) > MAX_REGIONS_BYTES:
        raise InvalidInputError(
            f"{kind}, regions", found=f"{len(data)} bytes", expected=f"at most {MAX_REGIONS_BYTES}"
        )
    return data


def growth_report_to_pb(value: GrowthReport, key: str) -> growth_pb2.ReportRequest:
    """Return the message; a reason that is too long or would not print is sent as a line that does."""
    return growth_pb2.ReportRequest(
        proposal=value.proposal, stage=value.stage, reason=_line(value.reason), idempotency_key=key
    )


def growth_report_from_pb(message: growth_pb2.ReportRequest) -> GrowthReport:
    return GrowthReport(
        proposal=proposal_id(message.proposal),
        stage=_word(message.stage, "stage", cast(tuple[GrowthStage, ...], get_args(GrowthStage))),
        reason=_reason(message.reason),
    )


def survey_to_pb(value: Survey) -> expert_pb2.SurveyReply:
    return expert_pb2.SurveyReply(
        gate_version=value.gate_version,
        leaves=[
            expert_pb2.LeafSurvey(
                leaf=each.leaf,
                samples=each.samples,
                nll_sum=each.nll_sum,
                correct=each.correct,
                novel=each.novel,
            )
            for each in value.leaves
        ],
        fresh=value.fresh,
        fresh_novel=value.fresh_novel,
    )


def survey_from_pb(message: expert_pb2.SurveyReply) -> Survey:
    """Return the survey: each leaf once, sums finite and not negative, counts within their samples."""
    if len(message.leaves) > MAX_LEAVES:
        raise InvalidInputError("leaves", found=f"{len(message.leaves)}", expected=f"at most {MAX_LEAVES}")
    fresh = _count(message.fresh, "fresh")
    leaves = tuple(map(_leaf_survey, message.leaves))
    if len({each.leaf for each in leaves}) != len(leaves):
        raise InvalidInputError("leaves", found="a leaf twice", expected="each once")
    return Survey(
        gate_version=_version(message.gate_version),
        leaves=leaves,
        fresh=fresh,
        fresh_novel=_count(message.fresh_novel, "fresh_novel", fresh),
    )


def _leaf_survey(message: expert_pb2.LeafSurvey) -> LeafSurvey:
    leaf = leaf_id(message.leaf)
    samples = _count(message.samples, f"samples of {leaf}")
    return LeafSurvey(
        leaf=leaf,
        samples=samples,
        nll_sum=_not_negative(message.nll_sum, f"nll_sum of {leaf}"),
        correct=_count(message.correct, f"correct of {leaf}", samples),
        novel=_count(message.novel, f"novel of {leaf}", samples),
    )


def _word(text: str, subject: str, known: tuple[Word, ...]) -> Word:
    if text not in known:
        raise InvalidInputError(subject, found=ascii(text[:40]), expected=", ".join(known))
    return text


def _version(value: int) -> int:
    if value > MAX_VERSION:
        raise InvalidInputError("gate_version", found=str(value), expected=f"0 to {MAX_VERSION}")
    return value


def _count(value: int, subject: str, largest: int = MAX_SAMPLES) -> int:
    if not 0 <= value <= largest:
        raise InvalidInputError(subject, found=str(value), expected=f"0 to {largest}")
    return value


def _not_negative(value: float, subject: str) -> float:
    if finite(value, subject) < 0:
        raise InvalidInputError(subject, found=f"{value:g}", expected="at least 0")
    return value


def _figures(values: Mapping[str, float], subject: str) -> dict[str, float]:
    if len(values) > MAX_FIGURES:
        raise InvalidInputError(subject, found=f"{len(values)} figures", expected=f"at most {MAX_FIGURES}")
    for name, value in values.items():
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise InvalidInputError(
                subject,
                found=f"the name {name[:40]!a}",
                expected=f"1 to {_MAX_NAME} printable characters",
            )
        finite(value, f"{subject} {name}")
    return dict(values)


def _reason(text: str) -> str:
    if len(text) > MAX_REASON or not text.isprintable():
        raise InvalidInputError(
            "reason", found=ascii(text[:40]), expected=f"at most {MAX_REASON} printable characters"
        )
    return text


def _line(text: str) -> str:
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 3]}..."
