"""Experts with real weights and real signatures, as `swarm export` finds them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swarm.domain.ids import Digest
from swarm.domain.manifests import Correction, Cost, Manifest
from swarm.domain.specification import Specification
from swarm.exchange.card import CardFacts
from swarm.exchange.folder import Export, write_export
from swarm.exchange.proof import Proof
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import pack_net
from swarm.trust.certificates import certificate_pin
from swarm.trust.identity import Identity
from swarm.trust.statements import Statement, read_statement, sign_statement
from tests.support.rpc import found_now, node
from tests.support.trust import Founded, manifest, specification

COST = Cost(train_flops=10**9, inference_flops=5000, samples_seen=640, duration_s=1.5)


@dataclass(frozen=True)
class Made:
    """An expert of one owner, its signed statements and its blobs."""

    founded: Founded
    owner: Identity
    statement: Statement[Manifest]
    specification: Specification
    blobs: Mapping[Digest, bytes]

    def read(self, blob: Digest) -> memoryview:
        return memoryview(self.blobs[blob])

    @property
    def proof(self) -> Proof:
        return Proof(
            manifest=self.statement.envelope,
            specification=sign_statement(self.specification, self.founded.coordinator_signer),
            owner_record=self.owner.record,
            coordinator_record=self.founded.coordinator.record,
            ca_pem=self.founded.ca.certificate_pem,
            files={},
        )

    def facts(self, **more: object) -> CardFacts:
        pin = certificate_pin(self.founded.ca.certificate_pem)
        return CardFacts(digest=self.statement.digest, pin=pin, **more)  # type: ignore[arg-type]

    def export(self, folder: Path, **how: object) -> Export:
        return write_export(folder, self.proof, self.read, self.facts(), **how)  # type: ignore[arg-type]


def made_expert(
    folder: Path,
    factory: str = "mlp:16x2",
    *,
    shape: tuple[int, ...] = (8, 8),
    class_names: tuple[str, ...] = ("beech", "élm", "oak"),
    corrected: bool = True,
    dtype: torch.dtype = torch.float32,
    **changes: object,
) -> Made:
    """Return an expert of ada's in a new swarm, with random weights; changes are of its manifest."""
    founded = found_now(folder)
    owner = node(founded, "ada")
    reference = net_reference(factory, shape, len(class_names))
    torch.manual_seed(3)
    modules, blobs = pack_net(build_net(reference).to(dtype))
    correcting, more = pack_net(build_net(reference).to(dtype))
    correction = Correction(
        modules=correcting,
        base=Digest("a" * 64),
        class_temperature=0.5,
        metrics={"validation_accuracy": 0.9},
        cost=COST,
    )
    value = replace(
        manifest(swarm=founded.ca.swarm),
        net=reference,
        class_names=class_names,
        modules=modules,
        cost=COST,
        correction=correction if corrected else None,
        **changes,  # type: ignore[arg-type]
    )
    specified = replace(
        specification(),
        swarm=founded.ca.swarm,
        input_shape=shape,
        input_dtype="uint8",
        scale=1 / 16,
        offset=-0.25,
    )
    signed = sign_statement(value, owner.required_signer())
    return Made(founded, owner, read_statement(signed, Manifest), specified, {**blobs, **more})
