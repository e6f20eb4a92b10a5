"""Who may be asked to add a leaf, by what regions, and what several nodes have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coordinator.growth_adds import COMMON_REGIONS, checked_add
from coordinator.growth_checks import owner_for
from coordinator.growth_common import CommonRegions
from swarm.domain.contributions import Contribution
from swarm.domain.errors import ConflictError, InvalidInputError, NotFoundError, NotReadyError, SwarmError
from swarm.domain.growth import MAX_REGIONS_BYTES, GrowthOrder, checked_options
from swarm.domain.ids import ExpertId, NodeId, SwarmId
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification
from swarm.federation import kmeans
from swarm.federation.own_samples import OwnSamples
from swarm.gating.common_regions import found_regions, packed_regions, unpacked_regions
from swarm.gating.growth import Intention
from swarm.gating.regions import region_columns, summarise_by
from swarm.modules.blobs import BlobFiles
from swarm.rpc.convert import growth as convert
from tests.support.federation import local_run, three_nodes
from tests.support.learning import make_specification

DAN, EVE, ZOE = NodeId("dan"), NodeId("eve"), NodeId("zoe")
OPERATOR, NODE = Caller(role="operator", id=NodeId("op")), Caller(role="node", id=DAN)


@pytest.fixture
def specification(tmp_path: Path) -> Specification:
    return make_specification(BlobFiles(tmp_path / "cache"))


def given(specification: Specification) -> Contribution:
    return Contribution(
        swarm=SwarmId("garden"),
        owner=DAN,
        epoch=1,
        trunk=specification.trunk.digest,
        leaves=(),
        created_at=1.0,
    )


def test_an_add_is_the_callers_or_that_of_the_node_that_is_named() -> None:
    assert owner_for("add", [], NODE) == DAN
    assert owner_for("add", [], OPERATOR, EVE) == EVE
    assert owner_for("add", [ExpertId("dan.e1")], OPERATOR) == DAN
    with pytest.raises(InvalidInputError, match="swarm expert add --node"):
        owner_for("add", [], OPERATOR)
    with pytest.raises(InvalidInputError, match="experts of dan and eve"):
        owner_for("add", [ExpertId("dan.e1")], OPERATOR, EVE)
    with pytest.raises(InvalidInputError, match="the owner eve"):
        owner_for("split", [ExpertId("dan.e1")], OPERATOR, EVE)


def test_an_add_is_refused_by_name_where_it_cannot_be(specification: Specification) -> None:
    def refusal(
        owner: NodeId, options: Mapping[str, str], regions: bytes, error: type[SwarmError], here: bool = True
    ) -> str:
        own = given(specification) if owner == DAN else None
        with pytest.raises(error) as found:
            checked_add(owner, own, options, regions, specification, was_here=here)
        return str(found.value)

    assert "node zoe" in refusal(ZOE, {}, b"", NotFoundError, here=False)
    assert "no leaf of it in the gate" in refusal(EVE, {}, b"", NotReadyError)
    assert "at most 20" in refusal(DAN, {"k": "21"}, b"", InvalidInputError)
    assert "everybody can build" in refusal(DAN, {"net": "mine:net"}, b"", InvalidInputError)
    assert "everybody can build" in refusal(DAN, {"net": "ridge-root"}, b"", InvalidInputError)
    assert "common regions" in refusal(DAN, {}, b"12345", InvalidInputError)
    columns = len(region_columns(specification.trunk.feature_size))
    regions = packed_regions(np.ones((3, columns), np.float32))
    options = {"k": "20", "net": "mlp:4x1", "steps": "5"}
    found = checked_add(DAN, given(specification), options, regions, specification, was_here=True)
    assert found == {COMMON_REGIONS: 3.0}
    assert checked_add(DAN, given(specification), {}, b"", specification, was_here=True) == {}


@pytest.mark.parametrize(
    "options", [{"k": "0"}, {"k": "4097"}, {"k": "x"}, {"k": "9" * 5000}, {"net": ""}, {"gate": "means"}]
)
def test_options_that_an_add_has_not_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError):
        checked_options("add", options)


def test_regions_travel_as_they_are_within_their_limits() -> None:
    centres = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    assert np.array_equal(unpacked_regions(packed_regions(centres), 6, 4), centres)
    for data, most in ((packed_regions(centres), 3), (b"", 4), (b"123", 4)):
        with pytest.raises(InvalidInputError, match="common regions"):
            unpacked_regions(data, 6, most)
    with pytest.raises(InvalidInputError, match="not finite"):
        unpacked_regions(packed_regions(np.full((1, 6), np.nan, np.float32)), 6, 4)
    order = GrowthOrder(
        proposal="p1", kind="add", experts=(), gate_version=1, regions=packed_regions(centres)
    )
    assert convert.growth_order_from_pb(convert.growth_order_to_pb(order)) == order
    for wrong in (
        replace(order, kind="split", experts=(ExpertId("dan.e1"),)),
        replace(order, regions=bytes(MAX_REGIONS_BYTES + 4)),
    ):
        with pytest.raises(InvalidInputError, match="regions"):
            convert.growth_order_from_pb(convert.growth_order_to_pb(wrong))


def test_a_leaf_stands_by_those_regions_that_at_least_five_of_its_samples_are_near_to() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), (10, 4, 6), axis=0)
    found = summarise_by(points, np.concatenate([np.eye(3), [[9, 9, 9]]]).astype(np.float32))
    assert np.array_equal(found.prototypes, np.eye(3, dtype=np.float32)[[0, 2]])
    assert found.counts.tolist() in ([14, 6], [10, 10]) and found.radii.shape == (2, 3)
    assert summarise_by(points[:2], np.eye(3, dtype=np.float32)).counts.tolist() == [2]


def add(owner: NodeId, *together: NodeId) -> Intention:
    return Intention(kind="add", owner=owner, experts=(), reason="", samples=30, together=together)


class Finder:
    def __init__(self, error: SwarmError | None = None) -> None:
        self.asked: list[tuple[NodeId, ...]] = []
        self.error = error

    async def __call__(self, nodes: Sequence[NodeId]) -> bytes:
        self.asked.append(tuple(nodes))
        if self.error is not None:
            raise self.error
        return b"regions"


async def test_regions_are_found_once_and_each_of_their_nodes_is_asked_by_them() -> None:
    find = Finder()
    common = CommonRegions(find)
    assert await common.of(add(DAN, DAN, EVE, ZOE)) == b"regions"
    assert await common.of(add(EVE, EVE, ZOE)) == b"regions"
    assert await common.of(add(ZOE)) == b"regions"
    assert await common.of(add(ZOE)) == b"", "a second time it is its own"
    assert find.asked == [(DAN, EVE, ZOE)]


async def test_another_intention_ends_the_turn_of_those_who_were_not_asked() -> None:
    common = CommonRegions(Finder())
    await common.of(add(DAN, DAN, EVE))
    split = Intention(kind="split", owner=DAN, experts=(ExpertId("dan.e1"),), reason="")
    assert await common.of(split) == b"" and await common.of(add(EVE)) == b""


async def test_where_no_regions_can_be_found_an_add_is_of_its_own_samples() -> None:
    assert await CommonRegions(Finder(NotReadyError("round", found="1 answer"))).of(add(DAN, DAN, EVE)) == b""
    with pytest.raises(ConflictError):
        await CommonRegions(Finder(ConflictError("run", found="another one"))).of(add(DAN, DAN, EVE))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OwnSamples]:
    return three_nodes(tmp_path_factory.mktemp("novel"), min_leaf_count=20)[1]


def test_without_a_number_there_are_as_many_regions_as_the_novel_samples_can_fill(
    nodes: dict[str, OwnSamples],
) -> None:
    new = {
        name: replace(nodes[name], novel=lambda name=name: nodes[name].training) for name in ("rose", "tulip")
    }  # type: ignore[misc]
    arrays, figures, _ = local_run(kmeans, new, "kmeans", k=0, select="novel", patience_s=0)
    samples = sum(len(each.training) for each in new.values())
    assert 1 <= len(arrays["centres"]) <= samples // (2 * 2 * 20)
    assert figures["nodes"] == 2 and 1 <= len(found_regions(arrays)) <= len(arrays["centres"])


def test_a_node_with_too_few_novel_samples_is_named_with_their_number(nodes: dict[str, OwnSamples]) -> None:
    few = nodes["tulip"].training.subset(np.arange(7))
    new = {
        "rose": replace(nodes["rose"], novel=lambda: nodes["rose"].training),
        "tulip": replace(nodes["tulip"], novel=lambda: few),
    }
    with pytest.raises(NotReadyError, match=r"tulip: .*found 7; expected at least 20"):
        local_run(kmeans, new, "kmeans", k=0, select="novel", patience_s=0)
