"""A node's home with experts of real nets, signed and ready to be asked, without a running swarm."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from node.expert_service import ExpertService, SpecificationFile
from node.expert_store import ExpertStore
from node.gate_evaluation import GateEvaluator
from node.outbound import OutboundLog
from node.own_validation import OwnValidation
from swarm.config import NodeHome
from swarm.digests import digest_of
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import ExpertRequest, ExpertTask
from swarm.domain.manifests import Correction, Cost, Manifest
from swarm.domain.specification import Specification
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import pack_net
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.statements import sign_statement, statement_digest
from tests.support import trust
from tests.support.learning import make_specification
from tests.support.node_homes import member_home
from tests.support.trust import Founded

COST = Cost(train_flops=1, inference_flops=1000, samples_seen=1, duration_s=1.0)


@dataclass
class ExpertHome:
    """Rose's home and her experts by manifest digest, in the order in which they were made."""

    home: NodeHome
    founded: Founded
    specification: Specification
    experts: dict[Digest, Manifest]

    def add(
        self,
        *,
        net: str = "mlp:8x1",
        seed: int = 0,
        classes: int = 2,
        corrected: bool = False,
        import_paths: tuple[str, ...] = (),
    ) -> Digest:
        """Put an expert with weights of its own into the home; return its manifest's digest."""
        number = len(self.experts)
        reference = net_reference(net, self.specification.input_shape, classes, import_paths)
        modules, correction = self._packed(reference, seed), None
        if corrected:
            correction = Correction(
                modules=self._packed(reference, seed + 1000), base=digest_of(b"gate"),
                class_temperature=0.2, metrics={}, cost=COST,
            )  # fmt: skip
        manifest = replace(
            trust.manifest("rose", number, swarm="garden"), net=reference, modules=modules,
            correction=correction, class_names=tuple(f"c{n}" for n in range(classes)),
            trunk=self.specification.trunk.digest, cost=COST,
        )  # fmt: skip
        envelope = sign_statement(manifest, Identity.load(self.home.identity).required_signer())
        folder = self.home.state / "manifests"
        folder.mkdir(exist_ok=True)
        digest = statement_digest(envelope)
        (folder / f"{digest}.json").write_bytes(envelope)
        self.experts[digest] = manifest
        return digest

    def store(self, **options: Any) -> ExpertStore:
        """Return a store over the home."""
        return ExpertStore(self.home, import_paths=tuple, **options)

    def service(self, store: ExpertStore, **options: Any) -> ExpertService:
        """Return what answers in the expert server's process, over a store."""
        keyring = self.founded.keyring()
        nowhere: Any = None
        return ExpertService(
            store=store,
            specification=SpecificationFile(self.home, keyring),
            keyring=keyring,
            evaluator=GateEvaluator(
                node=NodeId("rose"),
                registry=VerifiedRegistry(nowhere, nowhere, keyring, BlobFiles(self.home.state / "visiting")),
                visiting=BlobFiles(self.home.state / "visiting"),
                store=store,
                validation=OwnValidation(self.home),
                executor=ThreadPoolExecutor(1),
                import_paths=(),
            ),
            outbound=OutboundLog(self.home.outbound),
            **options,
        )

    def request(self, inputs: np.ndarray, *digests: Digest, **changes: Any) -> ExpertRequest:
        """Return a request to each of these experts: for all rows, or `rows`; `form`: that of the tasks."""
        form = changes.pop("form", "probabilities")
        rows = changes.pop("rows", np.arange(len(inputs)))
        tasks = tuple(
            ExpertTask(expert=self.experts[digest].expert, manifest=digest, rows=rows, form=form)
            for digest in digests
        )
        fields: dict[str, Any] = {"trunk": self.specification.trunk.digest, "gate_version": 1}
        return ExpertRequest(inputs=inputs, tasks=tasks, **(fields | changes))

    def _packed(self, reference: Any, seed: int) -> Any:
        torch.manual_seed(seed)
        modules, blobs = pack_net(build_net(reference))
        for blob in blobs.values():
            BlobFiles(self.home.cache).put(blob)
        return modules


def expert_home(folder: Path, count: int = 0, net: str = "mlp:8x1", **specified: Any) -> ExpertHome:
    """Return a home with `count` experts of that net, whose weights differ. `specified`: what of the
    specification is to be otherwise."""
    home, founded = member_home(folder)
    specification = make_specification(BlobFiles(home.cache), **specified)
    envelope = sign_statement(specification, founded.coordinator_signer)
    (home.state / "specification.json").write_bytes(envelope)
    made = ExpertHome(home, founded, specification, {})
    for seed in range(count):
        made.add(net=net, seed=seed)
    return made


def images(count: int, seed: int = 0) -> np.ndarray:
    """Return random inputs uint8 [count, 8, 8]."""
    return np.random.default_rng(seed).integers(0, 17, (count, 8, 8), dtype=np.uint8)
