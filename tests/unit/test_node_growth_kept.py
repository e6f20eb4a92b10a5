"""A node keeps the contribution that the gate has, however many of its splits come to nothing."""

from pathlib import Path

from node.growth.kept import KeptContributions
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.ids import Digest, NodeId, SwarmId
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement, statement_digest

SIGNER = Signer.generate()


def contribution(epoch: int) -> tuple[Digest, bytes]:
    value = Contribution(
        swarm=SwarmId("plants"),
        owner=NodeId("ada"),
        epoch=epoch,
        trunk=digest_of(b"t"),
        leaves=(),
        created_at=1.0,
    )
    envelope = sign_statement(value, SIGNER)
    return statement_digest(envelope), envelope


def put(kept: KeptContributions, folder: Path, epoch: int) -> tuple[Digest, bytes]:
    digest, envelope = contribution(epoch)
    arrays = folder / f"{epoch}.bin"
    arrays.write_bytes(b"arrays")
    kept.put(envelope, arrays)
    return digest, envelope


def test_what_the_gate_goes_back_to_is_kept_over_any_number_of_splits_that_do_not_pay(tmp_path: Path) -> None:
    kept = KeptContributions(tmp_path / "kept")
    first, envelope = put(kept, tmp_path, 1)
    kept.note_active(envelope)
    for epoch in range(2, 22, 2):
        copies, given = put(kept, tmp_path, epoch)
        kept.note_active(given)
        put(kept, tmp_path, epoch + 1)
        assert kept.find(first) is not None and kept.find(copies) is not None
        kept.note_gate([digest_of(b"of another node"), first])
    assert len(list((tmp_path / "kept").glob("*.bin"))) <= 6


def test_a_gate_without_anything_of_this_node_changes_nothing(tmp_path: Path) -> None:
    kept = KeptContributions(tmp_path / "kept")
    first, envelope = put(kept, tmp_path, 1)
    kept.note_active(envelope)
    kept.note_gate([digest_of(b"of another node")])
    for epoch in range(2, 9):
        put(kept, tmp_path, epoch)
    assert kept.find(first) is not None
