"""What `swarm registry rebuild` waits for, and what it says in the end."""

from types import SimpleNamespace
from typing import Any, cast

from swarm.cli.rebuilding import _awaited, describe
from swarm.domain.ids import NodeId
from swarm.domain.rebuild import MissingPiece, OwnerCame, RebuildReport

ADA, BOB = NodeId("ada"), NodeId("bob")
COORDINATOR = NodeId("coordinator")


def status(**alive: bool) -> Any:
    nodes = [SimpleNamespace(id=name, alive=lives, revoked=False) for name, lives in alive.items()]
    return cast(Any, SimpleNamespace(nodes=nodes))


def report(*came: NodeId, missing: tuple[NodeId, ...] = (), **more: Any) -> RebuildReport:
    return RebuildReport(
        heads=1,
        manifests=2,
        blobs=3,
        came=tuple(OwnerCame(owner=owner, offered=4, restored=1, blobs=2) for owner in came),
        missing=tuple(MissingPiece(owner=each, version=f"{each}.e1@1", what="manifest") for each in missing),
        **more,
    )


def test_who_is_alive_is_waited_for_until_nothing_of_its_own_is_missing() -> None:
    seen = status(ada=True, bob=False)
    assert _awaited(report(), seen) == "waiting for ada, coordinator"
    assert _awaited(report(ADA, COORDINATOR, missing=(ADA, ADA, BOB)), seen) == "waiting for ada (2 missing)"
    assert _awaited(report(ADA, COORDINATOR, missing=(BOB,)), seen) == ""
    assert _awaited(report(ADA), None) == "waiting for coordinator"


def test_what_came_and_from_where_is_told_for_each_owner() -> None:
    text = describe(
        report(ADA, from_journal=("ada.e1@1", "ada.e1@2", "bob.e1@1"), journal_damaged=1), ["bob"]
    )
    lines = [line.split() for line in text.splitlines()]
    assert ["ada", "2", "4", "1", "2"] in lines and ["bob", "1", "0", "0", "0"] in lines
    assert "1 lines of the registry's journal cannot be read" in text
    assert "not come yet: bob" in text and "nothing that is known of is missing" in text
