"""A node's book of leaves whose signed manifests the disk has damaged."""

from pathlib import Path

import pytest

from node.leaves import LeafBook
from swarm.domain.errors import VerificationError
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.trust.statements import Statement, read_statement, sign_statement
from tests.support.trust import found, manifest


@pytest.fixture
def accepted(tmp_path: Path) -> list[Statement[Manifest]]:
    """Two versions of one expert and one of another, all accepted by the registry."""
    signer = found(tmp_path / "swarm").member("ada").required_signer()
    book = LeafBook(tmp_path / "state")
    summary = tmp_path / "summary.npz"
    summary.write_bytes(b"summary")
    made = []
    for number, version in ((1, 1), (1, 2), (2, 1)):
        value = manifest("ada", number, version)
        statement = read_statement(sign_statement(value, signer), Manifest)
        book.note_signed(statement, class_counts={}, import_paths=(), summary=summary)
        head = Head(expert=value.expert, version=version, manifest=statement.digest)
        book.note_accepted(statement, head)
        made.append(statement)
    return made


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))


def test_one_damaged_manifest_keeps_no_other_from_coming_back(
    tmp_path: Path, accepted: list[Statement[Manifest]]
) -> None:
    first, second, other = accepted
    state = tmp_path / "state"
    for folder in ("accepted", "manifests"):
        damage(state / folder / f"{first.digest}.json")
    book = LeafBook(state)
    assert book.accepted_envelopes() == (second.envelope, other.envelope)
    assert book.published_envelopes() == (second.envelope, other.envelope)


@pytest.mark.parametrize("how", [damage, Path.unlink])
def test_a_manifest_that_was_lost_is_made_again_of_the_one_that_was_accepted(
    tmp_path: Path, accepted: list[Statement[Manifest]], how: object
) -> None:
    _, head, _ = accepted
    book = LeafBook(tmp_path / "state")
    how(book.manifest_file(head.digest))  # type: ignore[operator]
    assert book.signed(head.digest) == head
    assert book.manifest_file(head.digest).read_bytes() == head.envelope
    how(tmp_path / "state" / "accepted" / f"{head.digest}.json")  # type: ignore[operator]
    assert head.envelope in book.accepted_envelopes()


def test_a_head_that_cannot_be_read_at_all_keeps_no_node_from_greeting(
    tmp_path: Path, accepted: list[Statement[Manifest]]
) -> None:
    _, head, other = accepted
    state = tmp_path / "state"
    for folder in ("accepted", "manifests"):
        damage(state / folder / f"{head.digest}.json")
    book = LeafBook(state)
    assert book.published_envelopes() == (other.envelope,)
    assert book.nets() == {other.value.net.factory}
    with pytest.raises(VerificationError, match="a damaged file"):
        book.signed(head.digest)
