"""A small real swarm of keys: a CA, a coordinator, members with records, and samples of every statement."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from swarm.digests import digest_of
from swarm.domain.combination import Combination
from swarm.domain.contributions import Contribution, LeafContribution
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import NodeId, SwarmId, expert_of, leaf_of
from swarm.domain.manifests import Cost, Manifest, NetReference, Parent
from swarm.domain.members import MemberRecord, RevocationList, Role, Tombstone
from swarm.domain.replay import AnswerRecord, GivenAnswer, Said
from swarm.domain.specification import Specification, TrunkReference
from swarm.domain.tensors import ModuleEntry, TensorEntry
from swarm.trust.ca import CertificateAuthority
from swarm.trust.identity import LIFETIMES, Identity, create_service_identity, new_key_and_csr, save_identity
from swarm.trust.keyring import Keyring
from swarm.trust.signing import Signer

NOW = datetime(2030, 5, 17, 12, 0, tzinfo=UTC)
SWARM = SwarmId("plants")
BLOB = digest_of(b"some weights")


@dataclass(frozen=True)
class Founded:
    """A founded swarm in a folder."""

    folder: Path
    ca: CertificateAuthority
    coordinator: Identity

    @property
    def coordinator_signer(self) -> Signer:
        return self.coordinator.required_signer()

    def registry(self, folder: Path, now: datetime = NOW) -> Identity:
        """Let a registry begin: its identity, saved in that folder; it knows no coordinator's address."""
        return create_service_identity(
            self.ca,
            folder,
            role="registry",
            coordinator="127.0.0.1:9",
            coordinator_record=self.coordinator.record,
            now=now,
        )

    def member(self, name: str, role: Role = "node", now: datetime = NOW) -> Identity:
        """Let a member join: its identity, saved in a folder of its own."""
        signer = Signer.generate() if role == "node" else None
        key_pem, csr_pem = new_key_and_csr(self.ca.swarm, role, NodeId(name))
        return save_identity(
            self.folder / name,
            swarm=self.ca.swarm,
            role=role,
            id=NodeId(name),
            coordinator="h:7071",
            registry="h:7072",
            join="h:7070",
            ca_pem=self.ca.certificate_pem,
            certificate_pem=self.ca.issue(
                csr_pem, role=role, member=NodeId(name), lifetime=LIFETIMES[role], now=now
            ),
            key_pem=key_pem,
            record=self.ca.sign_record(
                MemberRecord(
                    swarm=self.ca.swarm,
                    role=role,
                    id=NodeId(name),
                    signing_key=signer.public_hex if signer else "",
                    joined_at=now.timestamp(),
                )
            ),
            coordinator_record=self.coordinator.record,
            signer=signer,
        )

    def keyring(self, *members: Identity) -> Keyring:
        """A keyring that knows the coordinator and these members."""
        keyring = self.coordinator.keyring()
        keyring.add_records(member.record for member in members)
        return keyring


def found(folder: Path, swarm: str = SWARM, now: datetime = NOW) -> Founded:
    """Found a swarm in folder."""
    ca = CertificateAuthority.create(folder / "ca", SwarmId(swarm), now=now)
    return Founded(
        folder, ca, create_service_identity(ca, folder / "coordinator", role="coordinator", now=now)
    )


def tensor(name: str, shape: tuple[int, ...], dtype: str = "float32", width: int = 4) -> TensorEntry:
    size = width
    for side in shape:
        size *= side
    return TensorEntry(name=name, dtype=dtype, shape=shape, blob=BLOB, offset=0, size_bytes=size)


def module(name: str) -> ModuleEntry:
    return ModuleEntry(name=name, digest=digest_of(name.encode()), tensors=(tensor("weight", (3, 2)),))


def manifest(owner: str = "ada", number: int = 1, version: int = 1, swarm: str = SWARM) -> Manifest:
    leaf = leaf_of(NodeId(owner), number)
    parents = (Parent(kind="trained-from", manifest=digest_of(b"before")),) if version > 1 else ()
    return Manifest(
        swarm=SwarmId(swarm),
        expert=expert_of(leaf),
        version=version,
        parent_version=version - 1,
        leaf=leaf,
        owner=NodeId(owner),
        net=NetReference(factory="mlp:8x1", input_shape=(4,), classes=2, code_digest=""),
        class_names=("beech", "élm"),
        modules=(module("hidden"), module("head")),
        parents=parents,
        trunk=digest_of(b"trunk"),
        gate_version_seen=0,
        share="borrow",
        metrics={"validation_accuracy": 0.875},
        cost=Cost(train_flops=10**15, inference_flops=1000, samples_seen=640, duration_s=1.5),
        created_at=NOW.timestamp(),
    )


def contribution(owner: str = "ada", leaf_owner: str = "") -> Contribution:
    leaf = leaf_of(NodeId(leaf_owner or owner), 1)
    return Contribution(
        swarm=SWARM,
        owner=NodeId(owner),
        epoch=1,
        trunk=digest_of(b"trunk"),
        leaves=(
            LeafContribution(
                leaf=leaf,
                expert=expert_of(leaf),
                class_counts={"beech": 40, "élm": 24},
                prototypes=tensor("prototypes", (2, 4)),
                prototype_counts=tensor("prototype_counts", (2,), "int64", 8),
                radii=tensor("radii", (2, 3)),
            ),
        ),
        created_at=NOW.timestamp(),
    )


def gate(version: int = 1) -> GateStatement:
    leaf = leaf_of(NodeId("ada"), 1)
    return GateStatement(
        swarm=SWARM,
        version=version,
        kind="prototypes",
        specification=digest_of(b"specification"),
        trunk=digest_of(b"trunk"),
        contributions=(digest_of(b"contribution"),),
        leaves=(
            GateLeaf(leaf=leaf, owner=NodeId("ada"), expert=expert_of(leaf), class_names=("beech", "élm")),
        ),
        class_names=("beech", "élm"),
        combinations=(Combination(name="prototypes", temperature=0.5, top_k=2),),
        served=0,
        ridge=0.0,
        arrays=(tensor("prototypes", (2, 4)), tensor("log_prior", (2,))),
        evidence={"validation_nll": 0.25},
        reason="contribution of ada",
        created_at=NOW.timestamp(),
    )


def specification(version: int = 1) -> Specification:
    return Specification(
        swarm=SWARM,
        version=version,
        input_shape=(4,),
        input_dtype="float32",
        scale=1.0,
        offset=0.0,
        task="classification",
        class_names=("beech", "élm"),
        accept_new_classes=True,
        trunk=TrunkReference(
            factory="identity",
            feature_size=4,
            weights=module("trunk"),
            probe=module("probe"),
            tolerance=1e-4,
            fixed_point=32.0,
            has_constant=False,
            digest=digest_of(b"trunk"),
        ),
        min_leaf_count=8,
        max_leaves_per_owner=16,
        max_prototypes_per_leaf=32,
    )


def tombstone(id: str = "ada.e1", kind: str = "expert") -> Tombstone:
    return Tombstone(
        swarm=SWARM,
        kind="node" if kind == "node" else "expert",
        id=id,
        reason="left",
        created_at=NOW.timestamp(),
    )


def given_answer(given_by: str = "coordinator") -> GivenAnswer:
    return GivenAnswer(
        swarm=SWARM,
        given_by=NodeId(given_by),
        given_at=NOW.timestamp(),
        inputs=digest_of(b"inputs"),
        owners=(NodeId("ada"),),
        min_confidence=0.5,
        figures=digest_of(b"figures"),
        route=digest_of(b"route"),
        record=AnswerRecord(
            specification=digest_of(b"specification"),
            gate=digest_of(b"gate"),
            gate_version=1,
            combination=Combination(name="prototypes", temperature=0.5, top_k=2, calibration=1.5),
            evenly=False,
            falls_back=False,
            heads=(digest_of(b"manifest"), ""),
            said=(
                Said(
                    leaf=0,
                    speaker=0,
                    manifest=digest_of(b"manifest"),
                    served_by=NodeId("ada"),
                    rows=(0, 2),
                    computed_on="cpu",
                ),
            ),
            computed_on="cpu",
        ),
    )


def revocations(number: int, *nodes: str) -> RevocationList:
    return RevocationList(
        swarm=SWARM, number=number, nodes=tuple(map(NodeId, nodes)), issued_at=NOW.timestamp()
    )
