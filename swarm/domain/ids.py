"""Identifiers. Every id is a short printable string; the patterns below are the whole grammar."""

import re
from typing import NewType

from swarm.domain.errors import InvalidInputError

SwarmId = NewType("SwarmId", str)
NodeId = NewType("NodeId", str)
ExpertId = NewType("ExpertId", str)
LeafId = NewType("LeafId", str)
Digest = NewType("Digest", str)
"""blake3 of some bytes, 64 lowercase hexadecimal digits."""

ROOT_OWNER = NodeId("coordinator")
ROOT_LEAF, ROOT_EXPERT = LeafId("coordinator.l0"), ExpertId("coordinator.e0")
"""The root: the one expert that is the coordinator's own."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_MEMBER = re.compile(r"([a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?)\.([el])([0-9]{1,6})")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def swarm_id(text: str) -> SwarmId:
    """Return text as a swarm's id; InvalidInputError unless it is a DNS label of at most 40 characters."""
    return SwarmId(_matching(_NAME, text, "swarm name"))


def node_id(text: str) -> NodeId:
    """Return text as a node's id; InvalidInputError unless it is a DNS label of at most 40 characters."""
    return NodeId(_matching(_NAME, text, "node name"))


def digest(text: str, subject: str = "digest") -> Digest:
    """Return text as a digest; InvalidInputError, about subject, unless it is 64 lowercase hex digits."""
    if not _DIGEST.fullmatch(text):
        raise InvalidInputError(subject, found=text[:80], expected="64 lowercase hexadecimal digits")
    return Digest(text)


def leaf_of(owner: NodeId, number: int) -> LeafId:
    """Return the permanent id of an owner's leaf: `<owner>.l<number>`."""
    return LeafId(f"{owner}.l{number}")


def number_of(leaf: LeafId) -> int:
    """Return a leaf's number: 2 of `rose.l2`."""
    return int(_member(leaf, "l")[2])


def expert_of(leaf: LeafId) -> ExpertId:
    """Return the id of the expert that serves a leaf: `<owner>.e<number>`."""
    owner, _, number = _member(leaf, "l")
    return ExpertId(f"{owner}.e{number}")


def owner_of(member: LeafId | ExpertId) -> NodeId:
    """Return the owner that a leaf's or an expert's id names."""
    return NodeId(_member(member, None)[0])


def _member(text: str, kind: str | None) -> tuple[str, str, str]:
    match = _MEMBER.fullmatch(text)
    if match is None or (kind is not None and match[2] != kind):
        raise InvalidInputError(
            "expert or leaf id", found=text[:80], expected="<node>.e<number> or <node>.l<number>"
        )
    return match[1], match[2], match[3]


def _matching(pattern: re.Pattern[str], text: str, subject: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidInputError(
            subject,
            found=repr(text[:80]),
            expected="lowercase letters, digits and inner hyphens, at most 40",
            remedy="choose another name",
        )
    return text
