"""What a router keeps of its swarm, and whom it asks for a version."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from swarm.answering.kept_statements import KeptStatements
from swarm.answering.known_swarm import KnownSwarm
from swarm.answering.owner_links import OwnerLinks
from swarm.digests import digest_of
from swarm.domain.errors import NotReadyError, VerificationError
from swarm.domain.ids import Digest, NodeId
from swarm.rpc.credentials import IdentitySource
from swarm.transfer import likeliest
from swarm.trust.statements import sign_statement
from tests.support.trust import found, manifest, specification

ADA, BOB, DAN, EVE = map(NodeId, ("ada", "bob", "dan", "eve"))


def test_what_was_damaged_on_disk_is_left_out(tmp_path: Path) -> None:
    kept = KeptStatements(tmp_path)
    kept.keep_table("nodes", [("bob", "b:1"), ("ada", "a:1")])
    assert KeptStatements(tmp_path).table("nodes") == {"ada": "a:1", "bob": "b:1"}
    for damaged in ("[1", "[" * 100_000, "\0" * 200, "null"):
        (tmp_path / "nodes.json").write_text(damaged)
        assert kept.table("nodes") == {}
    assert kept.table("heads") == {} and kept.envelope("gate") == b""
    kept.keep("manifest/one", b"1")
    kept.keep("manifest/two", b"2")
    kept.drop_others("manifest", {"two"})
    assert [*kept.all_of("manifest")] == [b"2"]


async def test_a_specification_is_kept_verified_and_never_older_or_of_another_trunk(tmp_path: Path) -> None:
    swarm = found(tmp_path / "swarm", now=datetime.now(UTC))
    app = swarm.member("app", role="client", now=datetime.now(UTC))
    signer = swarm.coordinator_signer
    known = KnownSwarm(tmp_path / "known", app)
    with pytest.raises(NotReadyError):
        known.specification()
    await known.take_specification(sign_statement(specification(2), signer))
    await known.take_specification(sign_statement(specification(1), signer))
    assert known.specification().version == 2
    other = replace(specification(3), trunk=replace(specification().trunk, digest=digest_of(b"other")))
    with pytest.raises(VerificationError, match="trunk"):
        await known.take_specification(sign_statement(other, signer))
    stranger = found(tmp_path / "other", now=datetime.now(UTC))
    with pytest.raises(VerificationError):
        await known.take_specification(sign_statement(specification(3), stranger.coordinator_signer))
    assert KnownSwarm(tmp_path / "known", app).specification().version == 2


async def test_owners_are_asked_first_then_who_stands_in_and_nobody_who_is_revoked(tmp_path: Path) -> None:
    swarm = found(tmp_path / "swarm", now=datetime.now(UTC))
    app = swarm.member("app", role="client", now=datetime.now(UTC))
    nodes, revoked = {ADA: "a:1", BOB: "b:1", DAN: "d:1"}, set[NodeId]()
    links = OwnerLinks(
        IdentitySource(app.folder),
        nodes=lambda: nodes,
        owners=lambda: (ADA, BOB, DAN, EVE),
        is_revoked=revoked.__contains__,
    )
    value = manifest("ada")
    order = likeliest(value.expert, ADA, {BOB, DAN, EVE})[:2]

    def asked() -> list[str]:
        return [each.link.node for each in links.holders(value, digest_of(b"m"))]

    assert asked() == [ADA, *(node for node in order if node != EVE)]
    assert [each.link.node for each in links.holders(replace(value, share="serve-only"), digest_of(b""))] == [
        ADA
    ]
    ada = links.get(ADA)
    assert ada is not None and links.get(EVE) is None and links.get(ADA) is ada
    ada.suspected = True
    assert ADA not in asked()
    nodes[ADA] = "a:2"
    assert links.get(ADA) is not ada and ADA in asked()
    revoked.add(ADA)
    assert links.get(ADA) is None and ADA not in asked()
    await links.close()


async def test_holders_by_hash_are_asked_after_those_that_an_expert_was_placed_on(tmp_path: Path) -> None:
    app = found(tmp_path / "s", now=datetime.now(UTC)).member("app", role="client", now=datetime.now(UTC))
    names = [ADA, BOB, DAN, EVE, NodeId("zed")]
    value, digest = manifest("ada"), digest_of(b"m")
    hashed = likeliest(value.expert, names[0], {*names[1:4]})[:2]
    placed: dict[Digest, tuple[NodeId, ...]] = {}
    links = OwnerLinks(
        IdentitySource(app.folder),
        nodes=lambda: {name: f"{name}:1" for name in names},
        owners=lambda: names[:4],
        is_revoked=lambda name: name == DAN,
        placed=lambda digest: placed.get(digest, ()),
    )

    def order() -> list[str]:
        return [each.link.node for each in links.holders(value, digest)]

    by_hash = [name for name in hashed if name != "dan"]
    assert order() == ["ada", *by_hash] and all(links.holds(NodeId(n), value, digest) for n in order())
    placed[digest] = (NodeId("zed"), NodeId("dan"))
    assert order() == ["ada", "zed", *by_hash]
    assert [links.holds(NodeId(name), value, digest) for name in order()[:3]] == [True, True, False]
    await links.close()
