"""What a contribution must be, what a gate is made of, and what a crash leaves of either."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from coordinator.candidate import Candidate, Signable, can_correct, gate_statement, plan_group
from coordinator.contribution_arrays import check_arrays, read_arrays
from coordinator.contribution_checks import check_epoch, check_experts, check_statement
from coordinator.contributions import ContributionFiles
from coordinator.envelope_files import EnvelopeFiles
from coordinator.solver import solve_group
from swarm.digests import digest_of
from swarm.domain.combination import Combination
from swarm.domain.contributions import Contribution
from swarm.domain.errors import (
    ConflictError,
    ExhaustedError,
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    ShapeMismatchError,
    SwarmError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, ExpertId, NodeId, leaf_of
from swarm.domain.manifests import Correction, Cost, Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import MAX_EXPERT_FLOPS, Specification
from swarm.gating.class_columns import whole
from swarm.modules.packing import unpack
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement
from tests.support.contributions import Arrays, arrays_of, contribution_of
from tests.support.trust import manifest, module, specification

COUNT, SIZE = 4, 5
SIGNER = Signer.generate()


def spec() -> Specification:
    made = specification()
    return replace(
        made,
        trunk=replace(made.trunk, feature_size=SIZE),
        min_leaf_count=5,
        max_leaves_per_owner=2,
        max_prototypes_per_leaf=8,
    )


LABELS = ["beech"] * 12 + ["élm"] * 8


def features_of(owner: str, shift: float = 0.0) -> NDArray[np.float32]:
    seed = sum(owner.encode())
    found = np.random.default_rng(seed).normal(size=(len(LABELS), SIZE)) + shift
    return found.astype(np.float32)


def contribution(owner: str = "ada", form: str = "none", **arrays: Any) -> tuple[Contribution, bytes]:
    made = arrays_of(features_of(owner), LABELS, spec().trunk, form)
    if form == "none":
        made["prototypes"] = made["prototypes"][:1].repeat(COUNT, axis=0)
        made["prototype_counts"] = np.full(COUNT, 5, np.int64)
        made["radii"] = np.tile(np.array([0.0, 1.0, 2.0], np.float32), (COUNT, 1))
    return contribution_of(owner, LABELS, made | arrays, spec())


def signed(value: Contribution) -> Statement[Contribution]:
    return read_statement(sign_statement(value, SIGNER), Contribution)


async def stored(files: ContributionFiles, value: Contribution, blob: bytes) -> Statement[Contribution]:
    statement = signed(value)
    files.keep(statement.digest, statement.envelope, await files.receive(value, in_parts(blob)))
    return statement


async def in_parts(blob: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(blob), 100):
        yield blob[start : start + 100]


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
        (leaf_changed(class_counts={"beech": 16, "élm": 4}), InvalidInputError, "class élm of leaf ada.l1"),
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


def test_more_new_classes_than_one_owner_may_bring_are_refused_before_any_array_is_sent() -> None:
    flood = leaf_changed(class_counts={f"class {number}": 5 for number in range(6000)})
    with pytest.raises(InvalidInputError) as caught:
        check_statement(flood, spec(), Caller(role="node", id=NodeId("ada")))
    assert caught.value.subject == "class names of contribution of ada"
    assert caught.value.found.startswith("6000 that the swarm was not founded with")
    assert caught.value.expected == "at most 1000 of one owner" and caught.value.remedy
    lenient = replace(spec(), max_new_classes_per_owner=6000)
    check_statement(flood, lenient, Caller(role="node", id=NodeId("ada")))


@pytest.mark.parametrize("part", ["expert", "correction"])
def test_a_leaf_whose_expert_costs_too_much_to_ask_is_refused(part: str) -> None:
    value, head = contribution()[0], fitting()
    dear = replace(head.cost, inference_flops=MAX_EXPERT_FLOPS + 1)
    if part == "expert":
        head = replace(head, cost=dear)
    else:
        correction = Correction(
            modules=(module("head"),), base=digest_of(b"gate"), class_temperature=0.2, metrics={}, cost=dear
        )
        head = replace(head, correction=correction)
    with pytest.raises(InvalidInputError, match=r"ada\.e1@1: found 5e\+10 FLOPs per query"):
        check_experts(value, {head.expert: head})


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


def with_arrays(form: str, change: Callable[[Arrays], Arrays]) -> tuple[Contribution, bytes]:
    made = arrays_of(features_of("ada"), LABELS, spec().trunk, form)
    return contribution_of("ada", LABELS, made | change(made), spec())


def scaled(*names: str, by: int) -> Callable[[Arrays], Arrays]:
    return lambda made: {name: (made[name] * by).astype(made[name].dtype) for name in names}


@pytest.mark.parametrize("form", ["exact", "compact"])
def test_sums_that_are_true_are_accepted(form: str) -> None:
    value, blob = contribution("ada", form)
    check_statement(value, spec(), Caller(role="node", id=NodeId("ada")))
    checked = check_arrays(digest_of(b"x"), value, blob, spec().trunk)
    assert checked.sums is not None and checked.sums.columns.shape == (SIZE + 1, 2)


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("exact", scaled("columns", by=3)),
        ("compact", scaled("columns", by=3)),
        ("exact", scaled("gram", by=1000)),
        ("exact", scaled("columns", "gram", by=1000)),
        ("compact", scaled("columns", "factor_scales", "diagonal", by=1000)),
        ("exact", scaled("gram", by=-1)),
        ("compact", lambda made: {"diagonal": np.full_like(made["diagonal"], np.nan)}),
        ("compact", lambda made: {"factor_scales": np.full_like(made["factor_scales"], np.inf)}),
        ("exact", lambda made: {"prototypes": np.full_like(made["prototypes"], np.nan)}),
        ("exact", lambda made: {"columns": made["columns"][:, ::-1].copy()}),
    ],
)
def test_sums_that_cannot_be_true_are_refused_by_name(form: str, change: Callable[[Arrays], Arrays]) -> None:
    value, blob = with_arrays(form, change)
    with pytest.raises(InvalidInputError) as caught:
        check_arrays(digest_of(b"x"), value, blob, spec().trunk)
    assert "ada" in caught.value.subject


def claiming(samples: int, form: str = "exact") -> Contribution:
    value, _ = contribution("ada", form)
    leaf = replace(value.leaves[0], class_counts={"beech": samples - 8, "élm": 8})
    sums = replace(value.sums, samples=samples) if value.sums else None
    return replace(value, leaves=(leaf,), sums=sums)


def test_a_node_that_claims_a_thousand_million_samples_is_refused() -> None:
    ada = Caller(role="node", id=NodeId("ada"))
    with pytest.raises(InvalidInputError, match="1000000000"):
        check_statement(claiming(10**9), spec(), ada)
    # Fewer than the most that can be summed exactly: then its sums say that it is not true.
    value = claiming(10**6)
    check_statement(value, spec(), ada)
    with pytest.raises(InvalidInputError, match="sums"):
        check_arrays(digest_of(b"x"), value, contribution("ada", "exact")[1], spec().trunk)


@pytest.mark.parametrize(
    ("change", "refusal", "named"),
    [
        (lambda v: replace(v, sums=None), InvalidInputError, "columns without sums"),
        (lambda v: replace(v, leaves=(replace(v.leaves[0], columns=None),)), InvalidInputError, "no columns"),
        (lambda v: replace(v, sums=replace(v.sums, samples=21)), InvalidInputError, "21 samples"),
        (lambda v: replace(v, sums=replace(v.sums, tensors=())), InvalidInputError, "gram"),
        (lambda v: replace(v, sums=replace(v.sums, form="compact")), InvalidInputError, "factors"),
        (
            lambda v: replace(v, sums=replace(v.sums, tensors=(replace(v.leaves[0].columns, name="gram"),))),
            ShapeMismatchError,
            "gram",
        ),
        (
            lambda v: replace(v, leaves=(replace(v.leaves[0], columns=v.sums.tensors[0]),)),
            ShapeMismatchError,
            "columns",
        ),
    ],
)
def test_statements_of_sums_that_do_not_fit_are_refused(
    change: Callable[[Contribution], Contribution], refusal: type[SwarmError], named: str
) -> None:
    with pytest.raises(refusal, match=named):
        check_statement(
            change(contribution("ada", "exact")[0]), spec(), Caller(role="node", id=NodeId("ada"))
        )


def test_a_contribution_beyond_256_mib_is_refused_before_it_is_sent() -> None:
    value, _ = contribution()
    far = replace(value.leaves[0].radii, offset=256 << 20)
    with pytest.raises(ExhaustedError, match="268435456"):
        check_statement(
            replace(value, leaves=(replace(value.leaves[0], radii=far),)),
            spec(),
            Caller(role="node", id=NodeId("ada")),
        )


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


def gate_of(
    owners: dict[str, str], heads: dict[Any, Manifest] | None = None
) -> tuple[GateStatement, dict[Any, bytes]]:
    """The gate of these owners, each with sums of a form, solved in this process."""
    found = [contribution(owner, form) for owner, form in owners.items()]
    known = heads if heads is not None else {fitting(owner).expert: fitting(owner) for owner in owners}
    statements = [signed(value) for value, _ in found]
    blobs = {each.digest: blob for each, (_, blob) in zip(statements, found, strict=True)}
    values = {each.digest: each.value for each in statements}
    group = plan_group(statements, known)
    checked = [read_arrays(d, values[d], blobs[d]) for d in group.contributions]
    solution = None
    if group.leaves:
        trunk = spec().trunk
        solution = solve_group(checked, group.leaves, spec().class_names, RIDGES, trunk.fixed_point)
    candidate = Candidate(
        group=group, ridges=RIDGES, solution=solution, has_corrections=can_correct(group.leaves, known)
    )
    return gate_statement(candidate, says())


RIDGES = (30.0, 300.0)


def says(**changes: Any) -> Signable:
    made = Signable(
        specification=spec(),
        specification_digest=digest_of(b"s"),
        combinations=(Combination(name="prototypes"),),
        served=0,
        ridge=300.0,
        reason="",
    )
    return replace(made, **changes)


@pytest.mark.parametrize("form", ["none", "exact", "compact"])
def test_a_gate_is_a_pure_function_of_its_contributions_whatever_their_order(form: str) -> None:
    three = dict.fromkeys(("ada", "bob", "cyd-of-oslo"), form)
    forward, blobs = gate_of(three)
    assert gate_of(dict(reversed(three.items()))) == (forward, blobs)
    never, _ = gate_of(dict.fromkeys(("ada", "cyd-of-oslo"), form))
    without, _ = gate_of({owner: form for owner in three if owner != "bob"})
    assert never == without and never.arrays != forward.arrays
    arrays = unpack(forward.arrays, lambda blob: memoryview(blobs[blob]))
    assert [name for name in arrays if name.startswith("prototypes.")] == [
        f"prototypes.{row}" for row in range(3)
    ]
    assert forward.kind == ("prototypes" if form == "none" else "analytic")
    if form != "none":
        assert arrays["weights"].shape == (SIZE + 1, 6) and forward.ridge == 300.0


def test_a_gate_of_mixed_contributions_has_columns_for_those_with_sums_only() -> None:
    gate, blobs = gate_of({"ada": "none", "bob": "exact", "cyd": "compact"})
    assert [leaf.has_columns for leaf in gate.leaves] == [False, True, True]
    arrays = unpack(gate.arrays, lambda blob: memoryview(blobs[blob]))
    alone, others = gate_of({"bob": "exact", "cyd": "compact"})
    same = unpack(alone.arrays, lambda blob: memoryview(others[blob]))
    np.testing.assert_array_equal(arrays["weights"], same["weights"])


def test_the_class_columns_of_every_ridge_come_along_in_a_trial() -> None:
    value, blob = contribution("ada", "exact")
    group = plan_group([signed(value)], {fitting().expert: fitting()})
    checked = read_arrays(group.contributions[0], value, blob)
    solution = solve_group([checked], group.leaves, spec().class_names, RIDGES, spec().trunk.fixed_point)
    candidate = Candidate(group=group, ridges=RIDGES, solution=solution, has_corrections=False)
    statement, blobs = gate_statement(candidate, says(is_trial=True, ridge=30.0))
    arrays = unpack(statement.arrays, lambda digest: memoryview(blobs[digest]))
    assert arrays["root.0"].dtype == np.float16 and arrays["root.1"].shape == (SIZE + 1, 2)
    assert solution.weights is not None and "weights" not in arrays
    first, second = (
        whole(np.asarray(arrays[name], np.float16), np.asarray(arrays[f"{name}.scales"], np.float32))
        for name in ("root.0", "root.1")
    )
    np.testing.assert_allclose(first, solution.weights[0], rtol=1e-3, atol=1e-6)
    assert np.abs(second).sum() < np.abs(first).sum()


def test_leaves_of_experts_without_a_version_stay_out_and_an_empty_gate_has_no_arrays() -> None:
    group = plan_group(
        [signed(contribution(owner, "exact")[0]) for owner in ("ada", "bob")],
        {fitting("bob").expert: fitting("bob")},
    )
    assert [leaf.owner for leaf in group.leaves] == ["bob"] and len(group.contributions) == 2
    without, _ = gate_of({"ada": "exact", "bob": "exact"}, {fitting("bob").expert: fitting("bob")})
    alone, _ = gate_of({"bob": "exact"})
    assert without.arrays == alone.arrays
    statement, blobs = gate_of({})
    assert (statement.leaves, statement.arrays, blobs) == ((), (), {})


def test_sums_are_left_out_while_one_of_their_owners_leaves_is() -> None:
    value = signed(contribution("ada", "exact")[0]).value
    second = replace(value.leaves[0], leaf=leaf_of(NodeId("ada"), 2), expert=ExpertId("ada.e2"))
    group = plan_group(
        [signed(replace(value, leaves=(*value.leaves, second)))], {fitting().expert: fitting()}
    )
    assert [(leaf.leaf, leaf.has_columns) for leaf in group.leaves] == [("ada.l1", False)]


def test_corrections_count_where_a_leaf_has_columns() -> None:
    base = Correction(
        modules=(module("head"),),
        base=digest_of(b"gate"),
        class_temperature=0.2,
        metrics={},
        cost=Cost(train_flops=1, inference_flops=1, samples_seen=1, duration_s=1.0),
    )
    heads = {fitting().expert: replace(fitting(), correction=base)}
    for form, expected in (("exact", True), ("none", False)):
        leaves = plan_group([signed(contribution("ada", form)[0])], heads).leaves
        assert can_correct(leaves, heads) is expected
        assert not can_correct(leaves, {fitting().expert: fitting()})


async def test_a_crash_between_arrays_and_envelope_leaves_nothing_that_counts(tmp_path: Path) -> None:
    value, blob = contribution()
    files = ContributionFiles(tmp_path)
    digest = (await stored(files, value, blob)).digest
    (tmp_path / f"{'0' * 64}.bin").write_bytes(b"half")
    (tmp_path / ".cut.json.abcd").write_bytes(b"half")
    (tmp_path / ".arrays.abcd").write_bytes(b"half")
    again = ContributionFiles(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{digest}.bin", f"{digest}.json"]
    assert again.statement(digest).value == value and bytes(again.arrays(digest)) == blob
    again.remove_owner(NodeId("bob"))
    assert again.digests() == [digest]
    again.remove_owner(NodeId("ada"))
    assert again.digests() == [] and not again.has(digest)


async def test_a_stream_of_other_bytes_leaves_nothing(tmp_path: Path) -> None:
    value, blob = contribution("ada", "exact")
    files = ContributionFiles(tmp_path)
    for bad in (blob[:-1], blob + b"x", bytes([blob[0] ^ 1]) + blob[1:], b""):
        with pytest.raises(VerificationError, match="contribution of ada"):
            await files.receive(value, in_parts(bad))
    assert list(tmp_path.iterdir()) == []


async def test_what_is_missing_or_damaged_is_named_and_never_used(tmp_path: Path) -> None:
    value, blob = contribution()
    files = ContributionFiles(tmp_path)
    digest = (await stored(files, value, blob)).digest
    (tmp_path / f"{digest}.bin").write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(VerificationError, match="contribution of ada"):
        read_arrays(digest, value, files.arrays(digest))
    (tmp_path / f"{digest}.bin").unlink()
    with pytest.raises(NotFoundError, match="backup"):
        files.arrays(digest)
    (tmp_path / f"{'1' * 64}.json").write_bytes((tmp_path / f"{digest}.json").read_bytes())
    with pytest.raises(VerificationError, match="backup"):
        files.statement(Digest("1" * 64))


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
