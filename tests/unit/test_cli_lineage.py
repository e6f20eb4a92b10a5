"""What `swarm lineage` says of a version that borrowed."""

from swarm.cli.experts import borrowers, describe_lineage
from swarm.digests import digest_of
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.lineage import Lineage, LineageEdge, LineageNode

ADA, BEN = digest_of(b"ada"), digest_of(b"ben")


def lineage() -> Lineage:
    nodes = [
        LineageNode(
            manifest=manifest,
            expert=ExpertId(f"{owner}.e1"),
            version=2,
            owner=NodeId(owner),
            standing="live",
            created_at=1.0,
        )
        for manifest, owner in ((BEN, "ben"), (ADA, "ada"))
    ]
    edge = LineageEdge(child=BEN, parent=ADA, kind="borrowed-from")
    return Lineage(nodes=tuple(nodes), edges=(edge,))


def test_a_version_that_borrowed_says_what_that_was_worth() -> None:
    figures = {"borrow_accuracy_at_100": 1.0, "random_accuracy_at_100": 0.9672, "borrow_flops": 5.0}
    assert borrowers(lineage()) == [BEN]
    said = describe_lineage(lineage(), {BEN: figures})
    assert "borrowed-from ada.e1@2 (after 100 steps 1.000, from random weights 0.967)" in said


def test_a_version_whose_metrics_are_not_known_here_says_where_they_are() -> None:
    assert f"borrowed-from ada.e1@2 (its metrics: swarm expert show {BEN})" in describe_lineage(lineage(), {})
    of_ben = describe_lineage(lineage(), {BEN: {"validation_accuracy": 1.0}}).splitlines()[1]
    assert of_ben.endswith("borrowed-from ada.e1@2")
