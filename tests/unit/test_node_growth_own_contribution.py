"""A contribution that a node keeps no more comes back from the coordinator, if it is the very one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from node.growth.kept import KeptContributions
from node.growth.own_contribution import OwnContributions
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution, LeafContribution
from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.tensors import TensorEntry
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement, statement_digest

SIGNER, ARRAYS = Signer.generate(), bytes(range(200))
ENTRY = TensorEntry(
    name="a", dtype="float32", shape=(50,), blob=digest_of(ARRAYS), offset=0, size_bytes=len(ARRAYS)
)
VALUE = Contribution(
    swarm=SwarmId("plants"),
    owner=NodeId("ada"),
    epoch=3,
    trunk=digest_of(b"t"),
    leaves=(
        LeafContribution(
            leaf=LeafId("ada.l1"),
            expert=ExpertId("ada.e1"),
            class_counts={"yew": 20},
            prototypes=ENTRY,
            prototype_counts=ENTRY,
            radii=ENTRY,
        ),
    ),
    created_at=1.0,
)
ENVELOPE = sign_statement(VALUE, SIGNER)
WANTED = statement_digest(ENVELOPE)


class Coordinator:
    def __init__(self, envelope: bytes = ENVELOPE, arrays: bytes = ARRAYS) -> None:
        self.envelope, self.arrays = envelope, arrays
        self.asked: list[Digest] = []

    async def contribution(self, digest: Digest, into: Path) -> bytes:
        self.asked.append(digest)
        if digest != WANTED:
            raise NotFoundError(f"contribution {digest[:12]}", found="none")
        into.write_bytes(self.arrays)
        return self.envelope


def own(folder: Path, coordinator: Coordinator) -> OwnContributions:
    return OwnContributions(
        identity=cast(Any, SimpleNamespace(required_signer=lambda: SIGNER)),
        kept=KeptContributions(folder / "contributions"),
        coordinator=coordinator,
        scratch=folder / "contributions" / "arriving.part",
    )


async def test_what_is_not_kept_here_comes_back_once(tmp_path: Path) -> None:
    coordinator = Coordinator()
    found = own(tmp_path, coordinator)
    await found.provide(WANTED)
    await found.provide(WANTED)
    await found.provide("")
    assert coordinator.asked == [WANTED]
    kept = found.kept.find(WANTED)
    assert kept is not None and kept[0].value == VALUE and kept[1].read_bytes() == ARRAYS
    assert sorted(path.suffix for path in (tmp_path / "contributions").iterdir()) == [".bin", ".json"]


@pytest.mark.parametrize("case", ["another's signature", "another contribution", "other arrays", "nothing"])
async def test_what_is_not_the_very_one_is_not_kept(tmp_path: Path, case: str) -> None:
    other = sign_statement(replace(VALUE, epoch=4), SIGNER)
    envelope = {
        "another's signature": sign_statement(VALUE, Signer.generate()),
        "another contribution": other,
        "nothing": b"",
    }.get(case, ENVELOPE)
    found = own(tmp_path, Coordinator(envelope, b"others" if case == "other arrays" else ARRAYS))
    with pytest.raises(VerificationError):
        await found.provide(WANTED)
    assert found.kept.find(WANTED) is None and not list((tmp_path / "contributions").iterdir())


async def test_what_the_coordinator_has_not_either_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="contribution"):
        await own(tmp_path, Coordinator()).provide(digest_of(b"another"))
