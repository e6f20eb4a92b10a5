"""What a contribution must be, what a gate is made of, and what a crash leaves of either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.candidate import Signable, assemble, gate_statement
from coordinator.contribution_checks import (
    CheckedContribution,
    check_epoch,
    check_experts,
    check_statement,
    read_arrays,
)
from coordinator.contributions import ContributionFiles
from coordinator.envelope_files import EnvelopeFiles
from swarm.digests import digest_of
from swarm.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    ShapeMismatchError,
    SwarmError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.ids import NodeId, expert_of, leaf_of
from swarm.domain.manifests import Contribution, LeafContribution, Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification
from swarm.modules.packing import pack_single, unpack
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.trust import manifest, specification

COUNT, SIZE = 4, 5


def spec() -> Specification:
    made = specification()
    return replace(
        made,
        trunk=replace(made.trunk, feature_size=SIZE),
        min_leaf_count=5,
        max_leaves_per_owner=2,
        max_prototypes_per_leaf=8,
    )


def contribution(owner: str = "ada", **arrays: Any) -> tuple[Contribution, bytes]:
    seed = len(owner)
    values = {
        "prototypes": np.random.default_rng(seed).normal(size=(COUNT, SIZE)).astype(np.float32),
        "prototype_counts": np.full(COUNT, 5, np.int64),
        "radii": np.tile(np.array([0.0, 1.0, 2.0], np.float32), (COUNT, 1)),
    } | arrays
    entries, _, blob = pack_single(values)
    by_name = {entry.name: entry for entry in entries}
    leaf = leaf_of(NodeId(owner), 1)
    value = Contribution(
        swarm=spec().swarm,
        owner=NodeId(owner),
        epoch=1,
        trunk=spec().trunk.digest,
        leaves=(
            LeafContribution(
                leaf=leaf,
                expert=expert_of(leaf),
                class_counts={"beech": 12, "élm": 8},
                prototypes=by_name["prototypes"],
                prototype_counts=by_name["prototype_counts"],
                radii=by_name["radii"],
            ),
        ),
        created_at=1.0,
    )
    return value, blob


def checked(owner: str) -> CheckedContribution:
    value, blob = contribution(owner)
    return read_arrays(digest_of(owner.encode()), value, blob)


def fitting(owner: str = "ada") -> Manifest:
    return replace(manifest(owner), trunk=spec().trunk.digest)


def leaf_changed(**changes: Any) -> Contribution:
    value, _ = contribution()
    return replace(value, leaves=(replace(value.leaves[0], **changes),))


def test_a_sound_contribution_passes_every_check() -> None:
    value, blob = contribution()
    check_statement(value, spec(), Caller(role="node", id=NodeId("ada")))
    check_experts(value, {fitting().expert: fitting()})
    check_epoch(value, 0)
    summary = read_arrays(digest_of(b"x"), value, blob).summaries[0]
    assert summary.prototypes.shape == (COUNT, SIZE) and summary.counts.sum() == 20


@pytest.mark.parametrize(
    ("value", "refusal", "named"),
    [
        (replace(contribution()[0], owner=NodeId("bob")), NotAuthorisedError, "bob"),
        (replace(contribution()[0], trunk=digest_of(b"other")), TrunkMismatchError, "trunk"),
        (replace(contribution()[0], leaves=()), InvalidInputError, "0 leaves"),
        (replace(contribution()[0], leaves=contribution()[0].leaves * 2), InvalidInputError, "twice"),
        (replace(contribution()[0], leaves=contribution("bob")[0].leaves), NotAuthorisedError, "leaf bob"),
        (replace(contribution()[0], epoch=0), InvalidInputError, "epoch 0"),
        (leaf_changed(class_counts={"beech": 2}), InvalidInputError, "stay at home"),
        (leaf_changed(class_counts={"beech": 25, "élm": 0}), InvalidInputError, "class counts"),
        (leaf_changed(class_counts={" beech": 25}), InvalidInputError, "class names"),
        (leaf_changed(class_counts={"beech": 10**12}), InvalidInputError, "class counts"),
        (leaf_changed(radii=contribution()[0].leaves[0].prototypes), ShapeMismatchError, "radii"),
        (leaf_changed(prototype_counts=contribution()[0].leaves[0].radii), ShapeMismatchError, "int64 [4]"),
    ],
)
def test_statements_that_promise_something_else_are_refused(
    value: Contribution, refusal: type[SwarmError], named: str
) -> None:
    with pytest.raises(refusal) as caught:
        check_statement(value, spec(), Caller(role="node", id=NodeId("ada")))
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"prototypes": np.full((COUNT, SIZE), np.nan, np.float32)}, "prototypes"),
        ({"prototypes": np.full((COUNT, SIZE), 1e9, np.float32)}, "prototypes"),
        ({"prototype_counts": np.array([5, 5, 5, 6], np.int64)}, "equal sums"),
        ({"prototype_counts": np.array([-5, 5, 10, 10], np.int64)}, "prototype counts"),
        ({"radii": np.full((COUNT, 3), -1, np.float32)}, "radii"),
        ({"radii": np.tile(np.array([3.0, 1, 2], np.float32), (COUNT, 1))}, "falling quantile"),
    ],
)
def test_arrays_that_cannot_be_true_are_refused(arrays: dict[str, Any], named: str) -> None:
    value, blob = contribution(**arrays)
    with pytest.raises(InvalidInputError) as caught:
        read_arrays(digest_of(b"x"), value, blob)
    assert named in str(caught.value)


def test_arrays_that_are_not_the_signed_ones_are_refused() -> None:
    value, blob = contribution()
    for bad in (blob[:-1], blob + b"x", bytes([blob[0] ^ 1]) + blob[1:]):
        with pytest.raises(VerificationError):
            read_arrays(digest_of(b"x"), value, bad)


def test_experts_must_be_published_own_of_one_trunk_and_know_the_classes() -> None:
    value, _ = contribution()
    expert = value.leaves[0].expert
    with pytest.raises(NotFoundError, match="publish the expert"):
        check_experts(value, {})
    with pytest.raises(TrunkMismatchError):
        check_experts(value, {expert: replace(fitting(), trunk=digest_of(b"other"))})
    with pytest.raises(NotAuthorisedError):
        check_experts(value, {expert: fitting("bob")})
    with pytest.raises(InvalidInputError, match="ginkgo"):
        check_experts(leaf_changed(class_counts={"ginkgo": 20}), {expert: fitting()})
    with pytest.raises(ConflictError, match="epoch"):
        check_epoch(value, 1)


def test_a_gate_is_a_pure_function_of_its_contributions_whatever_their_order() -> None:
    three = [checked(owner) for owner in ("ada", "bob", "cyd-of-oslo")]
    heads = {fitting(c.contribution.owner).expert: fitting(c.contribution.owner) for c in three}
    says = Signable(
        version=1, specification=spec(), specification_digest=digest_of(b"s"), temperature=2.0, top_k=2,
        reason="", created_at=1.0,
    )  # fmt: skip
    forward, blobs = gate_statement(assemble(three, heads, 2.0), says)
    backward, again = gate_statement(assemble(three[::-1], heads, 2.0), says)
    assert (forward, blobs) == (backward, again)
    never, _ = gate_statement(assemble([three[0], three[2]], heads, 2.0), says)
    without, _ = gate_statement(assemble([c for c in three if c is not three[1]], heads, 2.0), says)
    assert never == without and never.arrays != forward.arrays
    arrays = unpack(forward.arrays, lambda blob: memoryview(blobs[blob]))
    assert [name for name in arrays if name.startswith("prototypes.")] == [
        f"prototypes.{row}" for row in range(3)
    ]


def test_leaves_of_experts_without_a_version_stay_out_and_an_empty_gate_has_no_arrays() -> None:
    candidate = assemble([checked("ada"), checked("bob")], {fitting("bob").expert: fitting("bob")})
    assert [leaf.owner for leaf in candidate.leaves] == ["bob"] and len(candidate.contributions) == 2
    says = Signable(
        version=2, specification=spec(), specification_digest=digest_of(b"s"), temperature=1.0, top_k=2,
        reason="", created_at=1.0,
    )  # fmt: skip
    statement, blobs = gate_statement(assemble([], {}), says)
    assert (statement.leaves, statement.arrays, blobs) == ((), (), {})


def test_a_crash_between_arrays_and_envelope_leaves_nothing_that_counts(tmp_path: Path) -> None:
    value, blob = contribution()
    envelope = sign_statement(value, Signer.generate())
    digest = statement_digest(envelope)
    files = ContributionFiles(tmp_path)
    files.put(digest, envelope, blob)
    (tmp_path / f"{'0' * 64}.bin").write_bytes(b"half")
    (tmp_path / ".cut.json.abcd").write_bytes(b"half")
    again = ContributionFiles(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{digest}.bin", f"{digest}.json"]
    assert again.read(digest)[0].value == value
    again.remove_owner(NodeId("bob"))
    assert again.digests() == [digest]
    again.remove_owner(NodeId("ada"))
    assert again.digests() == [] and not again.has(digest)


def test_a_damaged_contribution_is_named_and_never_used(tmp_path: Path) -> None:
    value, blob = contribution()
    envelope = sign_statement(value, Signer.generate())
    digest = statement_digest(envelope)
    files = ContributionFiles(tmp_path)
    files.put(digest, envelope, blob)
    (tmp_path / f"{digest}.bin").write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(VerificationError, match=digest[:12]):
        files.read(digest)
    (tmp_path / f"{digest}.bin").unlink()
    with pytest.raises(NotFoundError, match="backup"):
        files.read(digest)


def test_envelopes_survive_and_the_newest_number_is_found(tmp_path: Path) -> None:
    files = EnvelopeFiles(tmp_path / "gates")
    assert files.newest() == 0 and files.get(1) is None
    for number in (1, 2, 10):
        files.put(number, str(number).encode())
    files.put("ada", b"record")
    assert (files.newest(), files.get(10), files.names()) == (10, b"10", ["1", "10", "2", "ada"])
    files.remove(10)
    files.remove(10)
    assert files.newest() == 2
