"""Which gate versions have a contribution, also where one of them was damaged."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from coordinator.envelope_files import EnvelopeFiles
from coordinator.gate_files import GateFiles
from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest
from swarm.modules.blobs import BlobFiles
from swarm.trust.keyring import Keyring


class Opened:
    """Stands for a keyring: an envelope is the list of its contributions, and `?` one that was damaged."""

    def open(self, envelope: bytes, _: type) -> Any:
        if envelope == b"?":
            raise VerificationError("gate", found="a signature that does not verify")
        listed = tuple(Digest(each) for each in envelope.decode().split())
        return SimpleNamespace(value=SimpleNamespace(contributions=listed))


def gates(folder: Path, *envelopes: bytes) -> GateFiles:
    files = EnvelopeFiles(folder / "gates")
    for version, envelope in enumerate(envelopes, start=1):
        files.put(version, envelope)
    trunk: Any = None
    return GateFiles(files, BlobFiles(folder / "blobs"), cast(Keyring, Opened()), lambda: trunk)


def test_the_first_version_with_a_contribution(tmp_path: Path) -> None:
    found = gates(tmp_path, b"a", b"a b", b"b c")
    assert [found.first_with(Digest(each)) for each in "abcd"] == [1, 2, 3, 0]


def test_a_damaged_version_stops_nobody_and_may_have_every_contribution(tmp_path: Path) -> None:
    found = gates(tmp_path, b"a", b"?", b"b")
    assert [found.first_with(Digest(each)) for each in "abcd"] == [1, 3, 2, 2]
