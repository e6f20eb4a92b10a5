"""A node keeps the contribution that the gate has, however many of its splits come to nothing."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from node.durable import write_json
from node.growth.kept import KeptContributions
from node.growth.order_files import ORDER_FILE, order_fields
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution
from swarm.domain.growth import GrowthOrder
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
    assert kept.find(digest) is not None
    return digest, envelope


def test_what_the_gate_goes_back_to_is_kept_over_any_number_of_splits_that_do_not_pay(tmp_path: Path) -> None:
    kept = KeptContributions(tmp_path / "kept")
    first, envelope = put(kept, tmp_path, 1)
    kept.note_active(envelope)
    for epoch in range(2, 22, 2):
        copies, sent = put(kept, tmp_path, epoch)
        kept.note_active(sent)
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


def test_what_an_order_under_way_is_about_is_kept_until_it_has_ended(tmp_path: Path) -> None:
    orders = tmp_path / "growth"
    kept = KeptContributions(tmp_path / "kept", orders)
    first, _ = put(kept, tmp_path, 1)
    order = GrowthOrder(proposal="p1", kind="split", experts=("ada.e1",), gate_version=1, before=first)
    write_json(orders / "p1" / ORDER_FILE, order_fields(order))
    write_json(orders / "p2" / ORDER_FILE, {"proposal": "p2"})  # damaged: it keeps nothing, and stops nothing
    for epoch in range(2, 12):
        put(kept, tmp_path, epoch)
    assert kept.find(first) is not None
    (orders / "p1" / ORDER_FILE).unlink()
    put(kept, tmp_path, 12)
    assert kept.find(first) is None


def test_a_contribution_of_long_ago_that_is_brought_back_is_kept_while_the_gate_has_it(
    tmp_path: Path,
) -> None:
    kept = KeptContributions(tmp_path / "kept")
    first, envelope = put(kept, tmp_path, 1)
    for epoch in range(2, 9):
        _, newest = put(kept, tmp_path, epoch)
        kept.note_active(newest)
    assert kept.find(first) is None
    kept.note_gate([first])  # `swarm gate rollback`
    arrays = tmp_path / "back.bin"
    arrays.write_bytes(b"arrays")
    kept.put(envelope, arrays)
    for epoch in range(9, 16):
        put(kept, tmp_path, epoch)
    assert kept.find(first) is not None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "taken up", "answer lost", "rolled back", "others"]), st.integers(0, 99)
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_the_gate_does_its_contribution_is_kept_and_what_it_goes_back_to(
    steps: list[tuple[str, int]],
) -> None:
    """A model of the coordinator: it takes up the newest, perhaps unheard, or goes back to the one before."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        kept, others = KeptContributions(folder / "kept"), digest_of(b"of another node")
        made, gates = [], list[Digest]()
        for epoch, (step, at) in enumerate(steps, 1):
            if step == "put" or not made:
                made.append(put(kept, folder, epoch))
                continue
            newest, envelope = made[-1]
            if step in ("taken up", "answer lost"):
                gates.append(newest)
                if step == "taken up":
                    kept.note_active(envelope)
                kept.note_gate([others, newest])
            elif step == "rolled back" and gates:
                gates.append(gates[at % len(gates)] if len(gates) < 2 else gates[-2])
                kept.note_gate([gates[-1], others])
            else:
                kept.note_gate([others, *gates[-1:]])
            needed = gates[-1:] if len(gates) < 2 else gates[-2:]
            assert all(kept.find(digest) is not None for digest in needed)
        assert len(list((folder / "kept").glob("*.bin"))) <= 7
