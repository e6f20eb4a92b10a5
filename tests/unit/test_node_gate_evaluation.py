"""A node tries gates with what they name and no more: arrays, experts, forms, each fetched and asked once."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from node.expert_service import ExpertService, SpecificationFile
from node.expert_store import ExpertStore
from node.gate_evaluation import CUDA_SPEED, GateEvaluator, _flops_per_sample
from node.outbound import OutboundLog
from node.own_validation import OwnValidation
from swarm.config import NodeHome
from swarm.digests import digest_of
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.errors import ExhaustedError, InvalidInputError, NotFoundError, TrunkMismatchError
from swarm.domain.gates import GateBranch, GateLeaf, GateStatement
from swarm.domain.ids import Digest, ExpertId, LeafId, expert_of, owner_of
from swarm.domain.inference import MAX_TRIAL_SAMPLES, ExpertForm, ExpertRequest, ExpertTask
from swarm.domain.manifests import Correction, Cost, Manifest, Share
from swarm.domain.specification import Specification
from swarm.domain.tensors import ModuleEntry
from swarm.experts.nets import build_net, net_reference
from swarm.experts.trunk import Trunk
from swarm.experts.weights import pack_net
from swarm.gating.combinations import ridge_options
from swarm.gating.regions import region_columns
from swarm.gating.sums import quantised
from swarm.modules.blobs import BlobFiles
from swarm.modules.outlines import Outline, outline_of
from swarm.modules.packing import pack_arrays, unpack
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.identity import Identity
from swarm.trust.statements import Statement, read_statement, sign_statement, statement_digest
from tests.support import trust
from tests.support.learning import digits_like, make_specification
from tests.support.node_homes import member_home
from tests.support.trust import Founded

NAMES = ("0", "1", "2", "3")
ROSE, LILY, TULIP = (LeafId(f"{name}.l0") for name in ("rose", "lily", "tulip"))
OF_LEAF = {ROSE: ("0", "1"), LILY: ("2", "3"), TULIP: ("2", "3")}
FLOPS = 1000
NET = "mlp:8x1"
REALLY = {width: 2 * 64 * width + width + 2 * width * 2 for width in (8, 64, 128)}
"""What mlp:WIDTHx1 takes for one sample."""


@dataclass
class Shelf:
    """A registry in memory that remembers what it was asked for; `VerifiedRegistry` trusts it in nothing."""

    envelopes: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def manifest(self, digest: str = "", expert: str = "", version: int = 0) -> bytes:
        self.asked.append(expert or digest)
        if (expert or digest) not in self.envelopes:
            raise NotFoundError(expert or digest)
        return self.envelopes[expert or digest]

    def pin(self, expert: str) -> Digest:
        """Return the digest of an expert's head."""
        return statement_digest(self.envelopes[expert])

    @property
    def name(self) -> str:
        return "the shelf"

    def holder(self) -> "Shelf":
        return self

    async def outline(self, blob: Digest) -> Outline:
        return outline_of(memoryview(self.blobs[blob]))

    async def read(self, blob: Digest, offset: int, length: int) -> AsyncIterator[bytes]:
        self.asked.append(blob)
        yield self.blobs[blob][offset : offset + length if length else None]

    async def fetch_into(self, blob: Digest, cache: BlobFiles, size_bytes: int | None = None) -> None:
        self.asked.append(blob)
        cache.put(self.blobs[blob])


@dataclass
class Garden:
    """Rose's home, with her expert, beside the shelf that holds lily's and tulip's."""

    home: NodeHome
    founded: Founded
    members: dict[str, Identity]
    specification: Specification
    shelf: Shelf
    visiting: BlobFiles
    store: ExpertStore
    validation: OwnValidation
    evaluator: GateEvaluator

    def publish(
        self, leaf: LeafId, *, share: Share = "borrow", refined: bool = False, net: str = NET
    ) -> Manifest:
        """Publish an untrained expert that declares FLOPS; rose's lies in her own home too."""
        own = leaf == ROSE
        modules, blobs = pack_net(self._net(1, net))
        correction = None
        cost = Cost(train_flops=1, inference_flops=FLOPS, samples_seen=1, duration_s=1.0)
        if refined:
            more, others = pack_net(self._net(2, net))
            blobs |= others
            correction = Correction(
                modules=more, base=digest_of(b"gate"), class_temperature=0.2, metrics={}, cost=cost
            )
        for data in blobs.values():
            (BlobFiles(self.home.cache) if own else self).put(data)
        expert = expert_of(leaf)
        value = Manifest(
            swarm=self.specification.swarm, expert=expert, version=1, parent_version=0, leaf=leaf,
            owner=owner_of(expert), net=net_reference(net, (8, 8), 2), class_names=OF_LEAF[leaf],
            modules=modules, parents=(), trunk=self.specification.trunk.digest, gate_version_seen=0,
            share=share, metrics={}, cost=cost, created_at=0.0, correction=correction,
        )  # fmt: skip
        return self.publish_as(value)

    def publish_as(self, value: Manifest) -> Manifest:
        """Publish a version whose blobs are there."""
        envelope = sign_statement(value, self.members[value.owner].required_signer())
        self.shelf.envelopes[value.expert] = self.shelf.envelopes[statement_digest(envelope)] = envelope
        if value.leaf == ROSE:
            folder = self.home.state / "manifests"
            folder.mkdir(exist_ok=True)
            (folder / f"{statement_digest(envelope)}.json").write_bytes(envelope)
        return value

    def packed(self, seed: int) -> tuple[ModuleEntry, ...]:
        """Return the modules of another net, whose blobs are on the shelf."""
        modules, blobs = pack_net(self._net(seed, NET))
        for data in blobs.values():
            self.put(data)
        return modules

    def put(self, data: bytes) -> Digest:
        self.shelf.blobs[digest_of(data)] = data
        return digest_of(data)

    def gate(self, *leaves: LeafId, far: tuple[LeafId, ...] = (), **changes: Any) -> Statement[GateStatement]:
        """Return a signed gate that knows the classes: prototypes at their means, least-squares weights."""
        images, labels = digits_like(400, 4, seed=5)
        trunk = Trunk.load(
            self.specification.trunk, BlobFiles(self.home.cache).open_verified, scale=1 / 16, offset=0.0
        )
        features = trunk.features(images)
        points = features[:, region_columns(features.shape[1])]
        targets = [(leaf, name) for leaf in leaves for name in OF_LEAF[leaf]]
        truth = np.array(
            [[NAMES[label] == name and leaf not in far for leaf, name in targets] for label in labels],
            dtype=np.float64,
        )
        q = quantised(features, self.specification.trunk.fixed_point, True).astype(np.float64)
        whole = np.linalg.solve(q.T @ q + 1e3 * np.eye(q.shape[1]), q.T @ truth)
        summed = np.stack([whole[:, [n == name for _, n in targets]].sum(axis=1) for name in NAMES], axis=1)
        arrays: dict[str, np.ndarray] = {
            f"prototypes.{row}": np.stack(
                [points[labels == NAMES.index(name)].mean(axis=0) for name in OF_LEAF[leaf]]
            ) + (1e3 if leaf in far else 0)
            for row, leaf in enumerate(leaves)
        }  # fmt: skip
        arrays |= {
            "log_prior": np.zeros(2 * len(leaves), np.float32),
            "radii": np.ones((2 * len(leaves), 3), np.float32),
            "weights": whole.astype(np.float32),
            "root.0": summed.astype(np.float16),
            "root.1": -summed.astype(np.float16),
        }
        value = replace(
            trust.gate(), swarm=self.specification.swarm, kind="analytic", class_names=NAMES,
            trunk=self.specification.trunk.digest,
            leaves=tuple(
                GateLeaf(
                    leaf=leaf, owner=owner_of(leaf), expert=expert_of(leaf), class_names=OF_LEAF[leaf],
                    has_columns=True,
                )
                for leaf in leaves
            ),
        )  # fmt: skip
        return self.signed(value, arrays, **changes)

    def signed(
        self, value: GateStatement, arrays: dict[str, np.ndarray], **changes: Any
    ) -> Statement[GateStatement]:
        """Return a gate with these arrays, one blob for each, as those of a real trunk are large."""
        entries = []
        for name, array in arrays.items():
            (entry,), blobs = pack_arrays({name: array})
            entries.append(entry)
            for data in blobs.values():
                self.put(data)
        value = replace(value, arrays=tuple(entries), **changes)
        return read_statement(sign_statement(value, self.founded.coordinator_signer), GateStatement)

    def arrays(self, gate: Statement[GateStatement]) -> dict[str, np.ndarray]:
        """Return a gate's arrays."""
        return unpack(gate.value.arrays, lambda blob: memoryview(self.shelf.blobs[blob]))

    def fetched(self, gate: Statement[GateStatement]) -> set[str]:
        """Return the names of the gate's arrays that were fetched."""
        return {entry.name for entry in gate.value.arrays if entry.blob in self.shelf.asked}

    def has_fetched(self, manifest: Manifest) -> bool:
        """Say whether any of an expert's blobs was fetched."""
        return bool(set(manifest.blobs()) & set(self.shelf.asked))

    def _net(self, seed: int, net: str) -> torch.nn.Module:
        torch.manual_seed(seed)
        return build_net(net_reference(net, (8, 8), 2))


@pytest.fixture
def garden(tmp_path: Path) -> Iterator[Garden]:
    home, founded = member_home(tmp_path)
    cache = BlobFiles(home.cache)
    specification = make_specification(cache, swarm=founded.ca.swarm)
    rose = Identity.load(home.identity)
    members = {"rose": rose} | {
        name: founded.member(name, now=datetime.now(UTC)) for name in ("lily", "tulip")
    }
    images, labels = digits_like(60, 4, seed=9)
    save_validation(home, images, labels)
    shelf, visiting = Shelf(), BlobFiles(tmp_path / "visiting")
    store, validation = ExpertStore(home, import_paths=tuple), OwnValidation(home)
    registry = VerifiedRegistry(shelf, None, founded.keyring(*members.values()), visiting)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1) as executor:
        evaluator = GateEvaluator(
            node=rose.id, registry=registry, visiting=visiting, store=store, validation=validation,
            executor=executor, import_paths=(),
        )  # fmt: skip
        yield Garden(home, founded, members, specification, shelf, visiting, store, validation, evaluator)


def save_validation(home: NodeHome, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez(home.state / "validation.npz", inputs=images, labels=np.array(NAMES)[labels])


def options(*names: str, top_k: int = 1) -> tuple[TrialOption, ...]:
    return tuple(
        TrialOption(
            combination=Combination(
                name=name,  # type: ignore[arg-type]
                temperature=100.0 if name == "prototypes" else 0.1,
                top_k=1 if name == "root" else top_k,
            )
        )
        for name in names
    )


async def test_a_ridge_is_tried_without_any_expert_or_prototype(garden: Garden) -> None:
    gate = garden.gate(ROSE, LILY)
    found = await garden.evaluator.judge(gate, None, ridge_options(2), garden.specification)
    assert garden.fetched(gate) == {"root.0", "root.1"}
    assert len(garden.shelf.asked) == 2
    assert found.samples == 60 and found.correct[0] > 55 and found.correct[1] < 5
    assert (found.experts_missing, found.gained, found.incumbent_correct) == (0, (0, 0), 0)
    assert found.flops > 0


async def test_the_root_needs_the_weights_and_nothing_else(garden: Garden) -> None:
    gate = garden.gate(ROSE, LILY)
    found = await garden.evaluator.judge(gate, None, options("root"), garden.specification)
    assert garden.fetched(gate) == {"weights"} and len(garden.shelf.asked) == 1
    assert found.correct[0] > 55


async def test_experts_are_asked_once_in_the_forms_that_the_options_use(garden: Garden) -> None:
    garden.publish(ROSE, refined=True)
    lily = garden.publish(LILY, refined=True)
    gate = garden.gate(ROSE, LILY)
    tried = options("prototypes", "gate", "poe", top_k=2)
    first = await garden.evaluator.judge(gate, None, tried, garden.specification)
    assert first.experts_missing == 0
    assert set(lily.blobs()) < set(garden.shelf.asked)
    assert not set(lily.blobs()) & set(garden.visiting.digests())
    garden.shelf.asked.clear()
    again = await garden.evaluator.judge(gate, None, tried, garden.specification)
    assert not set(lily.blobs()) & set(garden.shelf.asked) and not garden.fetched(gate)
    assert replace(again, flops=0) == replace(first, flops=0)
    assert first.flops - again.flops > 2 * FLOPS * 60
    strong = Combination(name="corrected", temperature=0.1, top_k=2, strength=1000.0)
    corrected = await garden.evaluator.judge(
        gate, gate, [TrialOption(combination=strong)], garden.specification
    )
    assert corrected.experts_missing == 0 and set(lily.blobs()) < set(garden.shelf.asked)
    assert corrected.lost_on_root != (0,)


async def test_what_may_not_be_held_is_not_fetched_and_counts_as_missing(garden: Garden) -> None:
    garden.publish(ROSE)
    lily = garden.publish(LILY, share="serve-only")
    gate = garden.gate(ROSE, LILY)
    found = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert found.experts_missing == 1
    assert not set(lily.blobs()) & set(garden.shelf.asked)
    del garden.shelf.envelopes[lily.expert]
    withdrawn = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert withdrawn.experts_missing == 1 and withdrawn.correct == found.correct


async def test_a_peers_expert_that_breaks_is_missing_and_ends_no_trial(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    garden.publish(ROSE)
    garden.publish(LILY)
    gate = garden.gate(ROSE, LILY)

    def broken(*_: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("node.gate_evaluation.load_expert", broken)
    found = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert found.experts_missing == 1 and found.samples == 60


@pytest.mark.parametrize("net", ["mlp:64x1", "cnn:256x256"])
async def test_a_peers_expert_costs_what_its_net_takes_whatever_it_declares(
    garden: Garden, monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    garden.publish(ROSE)
    lily = garden.publish(LILY, net=net)
    assert lily.cost.inference_flops == FLOPS
    gate = garden.gate(ROSE, LILY)
    allow(monkeypatch, 8 * FLOPS * 60)
    with capture_logs() as logs:
        found = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert found.experts_missing == 1 and found.samples == 60
    assert not garden.has_fetched(lily)
    (event,) = logs
    assert (event["event"], event["expert"]) == ("trial.expert_missing", lily.expert)
    assert "FLOPs for each of 60 samples; expected at most 4.8e+05" in event["because"]


def test_what_is_declared_counts_where_it_is_more(garden: Garden) -> None:
    modest = garden.publish(LILY)
    assert _flops_per_sample(modest, ["probabilities"]) == REALLY[8] > FLOPS
    declared = replace(modest, cost=replace(modest.cost, inference_flops=9 * FLOPS))
    assert _flops_per_sample(declared, ["probabilities"]) == 9 * FLOPS
    own = replace(modest, net=replace(modest.net, factory="people.nets:own"))
    assert _flops_per_sample(own, ["probabilities"]) == FLOPS


async def test_experts_of_peers_share_one_allowance_and_the_cheapest_are_asked_first(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    garden.publish(ROSE, net="mlp:128x1")
    lily, tulip = garden.publish(LILY, net="mlp:128x1"), garden.publish(TULIP, net="mlp:64x1")
    gate = garden.gate(ROSE, LILY, TULIP)
    tried = options("gate", top_k=3)
    await garden.evaluator.judge(gate, None, options("root"), garden.specification)
    allow(monkeypatch, 60 * (REALLY[128] + REALLY[64]) - 1)
    first = await garden.evaluator.judge(gate, None, tried, garden.specification)
    assert first.experts_missing == 1
    assert garden.has_fetched(tulip) and not garden.has_fetched(lily)
    garden.shelf.asked.clear()
    second = await garden.evaluator.judge(gate, None, tried, garden.specification)
    assert second.experts_missing == 0  # what tulip's said is known, and costs nothing now
    assert garden.has_fetched(lily) and not garden.has_fetched(tulip)
    third = await garden.evaluator.judge(gate, None, tried, garden.specification)
    assert first.flops - third.flops == 60 * (REALLY[128] + REALLY[64])  # rose's own and tulip's
    assert second.flops - third.flops == 60 * REALLY[128]


async def test_a_gpu_may_ask_for_more_and_own_experts_are_always_asked(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    garden.publish(ROSE)
    lily = garden.publish(LILY)
    gate = garden.gate(ROSE, LILY)
    allow(monkeypatch, 1)
    found = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert found.experts_missing == 1 and not garden.has_fetched(lily)
    allow(monkeypatch, 60 * REALLY[8] // CUDA_SPEED + 1, "cuda")
    found = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert found.experts_missing == 0 and garden.has_fetched(lily)


async def test_a_net_that_does_not_exist_is_missing_and_not_fetched(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    garden.publish(ROSE)
    monkeypatch.setattr(Garden, "_net", lambda *_: torch.nn.Linear(64, 2))
    lily = garden.publish(LILY, net="mlp:0x0")
    gate = garden.gate(ROSE, LILY)
    found = await garden.evaluator.judge(gate, None, options("gate"), garden.specification)
    assert found.experts_missing == 1 and not garden.has_fetched(lily)


def allow(monkeypatch: pytest.MonkeyPatch, flops: int, device: str = "cpu") -> None:
    """Let peers' experts cost so much in one trial, judged on a machine with this device."""
    monkeypatch.setattr("node.gate_evaluation.MOST_PEERS_FLOPS", flops)
    monkeypatch.setattr("node.gate_evaluation.best_device", lambda: torch.device(device))


async def test_an_expert_without_a_correction_adds_nothing_and_is_not_missing(garden: Garden) -> None:
    garden.publish(ROSE)
    garden.publish(LILY, share="serve-only")
    gate = garden.gate(ROSE, LILY)
    found = await garden.evaluator.judge(
        gate, None, options("root", "corrected", top_k=2), garden.specification
    )
    assert found.experts_missing == 0
    assert found.correct[0] == found.correct[1] and found.gained_on_root == found.lost_on_root == (0, 0)


async def test_a_leaf_that_no_sample_goes_to_is_not_fetched(garden: Garden) -> None:
    garden.publish(ROSE)
    garden.publish(LILY)
    tulip = garden.publish(TULIP, net="mlp:4x1")
    gate = garden.gate(ROSE, LILY, TULIP, far=(TULIP,))
    await garden.evaluator.judge(gate, None, options("prototypes", top_k=2), garden.specification)
    assert garden.fetched(gate) == {f"prototypes.{row}" for row in range(3)} | {"log_prior", "radii"}
    assert not garden.has_fetched(tulip)
    assert {"rose.e0", "lily.e0"} < set(garden.shelf.asked)


@pytest.mark.parametrize("served", options("prototypes", "root", "gate", top_k=2))
async def test_the_present_gate_is_heard_as_it_serves(garden: Garden, served: TrialOption) -> None:
    garden.publish(ROSE)
    garden.publish(LILY)
    present = garden.gate(ROSE, LILY, combinations=(Combination(name="poe"), served.combination), served=1)
    candidate = garden.gate(ROSE, LILY, version=2)
    found = await garden.evaluator.judge(candidate, present, [served], garden.specification)
    assert found.incumbent_correct == found.correct[0] > 0
    assert found.gained == found.lost == (0,)
    kept = {entry.blob for entry in (*present.value.arrays, *candidate.value.arrays)}
    assert set(garden.visiting.digests()) <= kept


async def test_without_samples_nothing_is_fetched_and_another_trunk_is_refused(garden: Garden) -> None:
    gate = garden.gate(ROSE, LILY, trunk=digest_of(b"another"))
    with pytest.raises(TrunkMismatchError, match="gate 1"):
        await garden.evaluator.judge(gate, None, ridge_options(2), garden.specification)
    (garden.home.state / "validation.npz").unlink()
    found = await garden.evaluator.judge(garden.gate(ROSE), None, ridge_options(2), garden.specification)
    assert (found.samples, found.correct) == (0, (0, 0)) and not garden.shelf.asked


def test_a_great_many_samples_are_thinned_out_evenly(garden: Garden) -> None:
    images, labels = digits_like(MAX_TRIAL_SAMPLES + 1000, 4)
    save_validation(garden.home, images, labels)
    assert garden.validation.refresh() == MAX_TRIAL_SAMPLES == len(garden.validation.inputs)
    counts = [garden.validation.labels.count(name) for name in NAMES]
    assert max(counts) - min(counts) < MAX_TRIAL_SAMPLES / 100


@pytest.mark.parametrize("form", ["probabilities", "corrections"])
async def test_a_task_is_answered_in_its_form(garden: Garden, form: ExpertForm) -> None:
    service = ExpertService(
        store=garden.store, specification=SpecificationFile(garden.home, garden.founded.keyring()),
        keyring=garden.founded.keyring(), evaluator=garden.evaluator,
        outbound=OutboundLog(garden.home.outbound),
    )  # fmt: skip
    images, _ = digits_like(5, 4)

    def request(manifest: Manifest) -> ExpertRequest:
        task = ExpertTask(
            expert=ExpertId("rose.e0"), manifest=digest_at(garden, manifest), form=form, rows=np.arange(2)
        )
        return ExpertRequest(
            inputs=images, tasks=(task,), trunk=garden.specification.trunk.digest, gate_version=1
        )

    refined = garden.publish(ROSE, refined=True)
    (answer,) = await service.predict(request(refined))
    assert answer.form == form and answer.values.shape == (2, 2)
    assert answer.values.sum(axis=1) == pytest.approx(float(form == "probabilities"), abs=1e-5)
    assert refined.correction is not None
    modules = refined.modules if form == "probabilities" else refined.correction.modules
    assert answer.module_digests == tuple(module.digest for module in modules)
    plain = garden.publish(ROSE)
    if form == "corrections":
        with pytest.raises(InvalidInputError, match=r"rose\.e0@1: found no correction"):
            await service.predict(request(plain))
    else:
        assert len(await service.predict(request(plain))) == 1


async def test_what_fits_into_no_message_is_not_computed(
    garden: Garden, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = ExpertService(
        store=garden.store, specification=SpecificationFile(garden.home, garden.founded.keyring()),
        keyring=garden.founded.keyring(), evaluator=garden.evaluator,
        outbound=OutboundLog(garden.home.outbound),
    )  # fmt: skip
    images, _ = digits_like(5, 4)
    manifest = garden.publish(ROSE)
    task = ExpertTask(expert=ExpertId("rose.e0"), manifest=digest_at(garden, manifest), rows=np.arange(5))
    size = 5 * len(manifest.class_names) * 4 + sum(map(len, manifest.class_names))
    monkeypatch.setattr("node.request_checks.MAX_MESSAGE_BYTES", 3 * size)

    def asking(times: int) -> ExpertRequest:
        return ExpertRequest(
            inputs=images, tasks=(task,) * times, trunk=garden.specification.trunk.digest, gate_version=1
        )

    assert len(await service.predict(asking(3))) == 3
    with pytest.raises(ExhaustedError, match=r"answer: .*ask in smaller batches"):
        await service.predict(asking(4))


def digest_at(garden: Garden, manifest: Manifest) -> Digest:
    return statement_digest(garden.shelf.envelopes[manifest.expert])


def grown(garden: Garden, *, pins: tuple[str, ...] = ("", "")) -> tuple[Manifest, Statement[GateStatement]]:
    """Put two leaves of lily's under what was her one, with the same weights: exact copies."""
    whole = garden.gate(ROSE, LILY)
    children = [LeafId(f"lily.l{number}") for number in (4, 5)]
    copies = []
    for child in children:
        parent = garden.publish(LILY)
        copies.append(garden.publish_as(replace(parent, leaf=child, expert=expert_of(child))))
    arrays = garden.arrays(whole)
    of_lily = arrays["weights"][:, 2:]
    arrays |= {
        "prototypes.2": arrays["prototypes.1"], "branch.0": arrays["prototypes.1"],
        "log_prior": np.zeros(8, np.float32), "radii": np.ones((8, 3), np.float32),
        "weights": np.concatenate([arrays["weights"][:, :2], 0.5 * of_lily, 0.5 * of_lily], axis=1),
        "branch_weights": of_lily,
    }  # fmt: skip
    one, two = (replace(whole.value.leaves[1], leaf=child, expert=expert_of(child)) for child in children)
    pinned = [replace(each, parent=LILY, manifest=pin) for each, pin in zip((one, two), pins, strict=True)]
    branches = (GateBranch(leaf=LILY, owner=owner_of(LILY)),)
    return copies[0], garden.signed(
        whole.value, arrays, leaves=(whole.value.leaves[0], *pinned), branches=branches
    )


@pytest.mark.parametrize("name", ["root", "gate", "poe", "prototypes"])
async def test_a_candidate_with_a_leaf_split_into_copies_is_judged_as_the_gate_before(
    garden: Garden, name: str
) -> None:
    garden.publish(ROSE)
    garden.publish(LILY)
    asked = options(name, top_k=2)
    before = await garden.evaluator.judge(garden.gate(ROSE, LILY), None, asked, garden.specification)
    _, gate = grown(garden)
    after = await garden.evaluator.judge(gate, None, asked, garden.specification)
    assert after.nll_sum == before.nll_sum and after.correct == before.correct
    assert after.experts_missing == 0


async def test_a_pinned_version_is_judged_and_not_the_head(garden: Garden) -> None:
    garden.publish(ROSE)
    copy, _ = grown(garden)
    pin = garden.shelf.pin(copy.expert)
    _, gate = grown(garden, pins=(pin, ""))
    garden.publish_as(replace(copy, modules=garden.packed(7), version=2, parent_version=1))
    await garden.evaluator.judge(gate, None, options("prototypes", top_k=2), garden.specification)
    assert pin in garden.shelf.asked and copy.expert not in garden.shelf.asked
    assert garden.validation.values(pin, "probabilities") is not None


async def test_a_survey_counts_what_goes_to_each_leaf_and_fetches_what_it_needs(garden: Garden) -> None:
    garden.publish(ROSE)
    garden.publish(LILY)
    served = Combination(name="gate", temperature=0.1, top_k=2)
    root = Combination(name="root")
    gate = garden.gate(ROSE, LILY, combinations=(root, served), served=0)
    found = await garden.evaluator.survey(gate, garden.specification)
    assert [leaf.leaf for leaf in found.leaves] == [ROSE, LILY] and found.gate_version == gate.value.version
    assert sum(leaf.samples for leaf in found.leaves) == 60
    assert all(leaf.nll_sum > 0 and 0 <= leaf.correct <= leaf.samples for leaf in found.leaves)
    assert garden.fetched(gate) == {"prototypes.0", "prototypes.1", "log_prior", "radii", "weights"}
    (garden.home.state / "validation.npz").unlink()
    assert (await garden.evaluator.survey(gate, garden.specification)).leaves == ()


async def test_an_expert_that_may_not_be_held_counts_samples_and_no_loss_in_a_survey(garden: Garden) -> None:
    garden.publish(ROSE)
    lily = garden.publish(LILY, share="serve-only")
    served = Combination(name="gate", temperature=0.1, top_k=2)
    gate = garden.gate(ROSE, LILY, combinations=(served,), served=0)
    _, hers = (await garden.evaluator.survey(gate, garden.specification)).leaves
    assert hers.samples > 10 and (hers.nll_sum, hers.correct) == (0.0, 0)
    assert not garden.has_fetched(lily) or lily.blobs() == garden.publish(ROSE).blobs()


async def test_a_survey_is_listed_with_what_leaves_the_node(garden: Garden) -> None:
    garden.publish(ROSE)
    served = Combination(name="gate", temperature=0.1, top_k=1)
    gate = garden.gate(ROSE, combinations=(served,), served=0)
    log = OutboundLog(garden.home.outbound)
    keyring = garden.founded.keyring(*garden.members.values())
    service = ExpertService(
        store=garden.store,
        specification=SpecificationFile(garden.home, keyring),
        keyring=keyring,
        evaluator=garden.evaluator,
        outbound=log,
    )
    agreed = sign_statement(garden.specification, garden.founded.coordinator_signer)
    found = await service.survey(gate.envelope, agreed)
    assert [leaf.samples for leaf in found.leaves] == [60]
    (line,) = log.read()
    assert line.what == "survey sums" and line.recipient == "coordinator" and line.digest == gate.digest
