"""Which version answers for a leaf: the head, or the one that a gate pins, as long as nobody withdrew it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from structlog.testing import capture_logs

from coordinator.envelope_files import EnvelopeFiles
from coordinator.heads import Heads
from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, UnreachableError, VerificationError
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.manifests import Manifest
from swarm.domain.members import Tombstone
from swarm.domain.membership import Event, Head
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement
from tests.support.trust import manifest, module

SIGNER = Signer.generate()
LEAF = GateLeaf(
    leaf=LeafId("ada.l1"), owner=NodeId("ada"), expert=ExpertId("ada.e1"), class_names=("beech", "élm")
)


class Shelf:
    """A store in memory."""

    def __init__(self) -> None:
        self.envelopes: dict[str, bytes] = {}
        self.head_of: dict[str, Head] = {}
        self.withdrawn: dict[str, bytes] = {}
        self.away = False
        self.asked: list[str] = []

    async def manifest(self, digest: Digest) -> bytes | None:
        if self.away:
            raise UnreachableError("store")
        self.asked.append(digest)
        return self.envelopes.get(digest)

    async def heads(self) -> list[Head]:
        return list(self.head_of.values())

    async def head(self, expert: ExpertId) -> Head | None:
        return self.head_of.get(expert)

    async def tombstones(self) -> dict[str, bytes]:
        return self.withdrawn

    def publish(self, value: Manifest) -> Digest:
        envelope = sign_statement(value, SIGNER)
        digest = read_statement(envelope, Manifest).digest
        self.envelopes[digest] = envelope
        self.head_of[value.expert] = Head(expert=value.expert, version=value.version, manifest=digest)
        return digest


class Members:
    """Takes every signature for its owner's, except of what is called false."""

    async def open(self, envelope: bytes, cls: type[Any]) -> Statement[Any]:
        statement = read_statement(envelope, cls)
        is_false = cls is Manifest and statement.value.metrics.get("false")
        if is_false or (cls is Tombstone and statement.value.reason == "false"):
            raise VerificationError("statement", found="another signature")
        return statement


def _stone(target: str, reason: str = "") -> bytes:
    kind: Literal["expert", "node"] = "expert" if "." in target else "node"
    value = Tombstone(swarm=SwarmId("plants"), kind=kind, id=target, reason=reason, created_at=1.0)
    return sign_statement(value, SIGNER)


def heads(folder: Path, shelf: Shelf) -> Heads:
    return Heads(
        shelf,  # type: ignore[arg-type]
        Members(),  # type: ignore[arg-type]
        EnvelopeFiles(folder / "heads"),
        EnvelopeFiles(folder / "tombstones"),
    )


async def test_a_pinned_version_answers_while_newer_ones_are_published_and_after_a_restart(
    tmp_path: Path,
) -> None:
    shelf = Shelf()
    first = shelf.publish(manifest("ada"))
    known = heads(tmp_path, shelf)
    assert (await known.pin(first)) is not None
    second = shelf.publish(replace(manifest("ada", version=2), modules=(module("trained"),)))
    await known.refresh()
    for each in (known, heads(tmp_path, Shelf())):
        await each.load()
        pinned, free = each.answering(replace(LEAF, manifest=first)), each.answering(LEAF)
        assert pinned is not None and (pinned.digest, pinned.manifest.version) == (first, 1)
        assert free is not None and (free.digest, free.manifest.version) == (second, 2)
    assert each.manifests().keys() == {"ada.e1"}


async def test_a_pin_that_is_not_here_is_never_replaced_by_the_head_and_fetched_when_it_can_be(
    tmp_path: Path,
) -> None:
    shelf = Shelf()
    first = shelf.publish(manifest("ada"))
    shelf.publish(manifest("ada", version=2))
    known = heads(tmp_path, shelf)
    await known.refresh()
    leaf = replace(LEAF, manifest=first)
    shelf.away = True
    with pytest.raises(UnreachableError):
        await known.pin(first)
    assert known.answering(leaf) is None and known.answering(LEAF) is not None
    shelf.away = False
    await known.on_event(Event(id="1", kind="gate.activated", at=0.0, fields=()))
    found = known.answering(leaf)
    assert found is not None and found.manifest.version == 1
    asked = len(shelf.asked)
    await known.pin(first)
    await known.refresh()
    assert len(shelf.asked) == asked


@pytest.mark.parametrize("target", ["ada.e1", "ada"])
async def test_a_withdrawn_experts_pinned_versions_are_not_given(tmp_path: Path, target: str) -> None:
    shelf = Shelf()
    first = shelf.publish(manifest("ada"))
    known = heads(tmp_path, shelf)
    await known.pin(first)
    shelf.withdrawn[target] = _stone(target)
    await known.refresh()
    assert known.answering(replace(LEAF, manifest=first)) is None and await known.pin(first) is None
    again = heads(tmp_path, shelf)
    await again.load()
    assert again.answering(replace(LEAF, manifest=first)) is None


@pytest.mark.parametrize("of", ["another", "nobody", "bytes"])
async def test_a_tombstone_that_nobody_signed_for_its_target_withdraws_nothing(
    tmp_path: Path, of: str
) -> None:
    shelf = Shelf()
    first = shelf.publish(manifest("ada"))
    known = heads(tmp_path, shelf)
    await known.pin(first)
    forged = {"another": _stone("bob.e1"), "nobody": _stone("ada.e1", "false"), "bytes": b"{}"}[of]
    shelf.withdrawn |= {"ada.e1": forged, "../heads/planted": forged}
    with capture_logs() as logged:
        for _ in range(2):
            await known.refresh()
    assert sorted(each["target"] for each in logged) == ["../heads/planted", "ada.e1"]
    assert known.answering(replace(LEAF, manifest=first)) is not None
    assert list(tmp_path.rglob("planted*")) == [] and list((tmp_path / "tombstones").iterdir()) == []


def test_a_name_that_leads_out_of_the_folder_is_none(tmp_path: Path) -> None:
    files = EnvelopeFiles(tmp_path / "in")
    for name in ("../out", "/out", "in/out", "..", ".hidden", "", "a\nb"):
        with pytest.raises(InvalidInputError, match="plain name"):
            files.put(name, b"{}")
        with pytest.raises(InvalidInputError, match="plain name"):
            files.get(name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in"]


async def test_a_pin_that_does_not_verify_or_is_of_another_expert_is_not_given(tmp_path: Path) -> None:
    shelf = Shelf()
    false = shelf.publish(replace(manifest("ada"), metrics={"false": 1.0}))
    other = shelf.publish(manifest("bob"))
    swapped = digest_of(b"promised")
    shelf.envelopes[swapped] = shelf.envelopes[other]
    known = heads(tmp_path, shelf)
    assert await known.pin(false) is None and await known.pin(swapped) is None
    assert await known.pin(digest_of(b"nowhere")) is None
    assert await known.pin(other) is not None
    for digest in (false, swapped, other):
        assert known.answering(replace(LEAF, manifest=digest)) is None
