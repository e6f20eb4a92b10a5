"""A node that has learned and is in the gate, as growth finds it, without any process around it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from node.existing import existing_branches, existing_leaves
from node.growth.job_making import JobMaker
from node.growth.jobs import GrowthJob, GrowthResult, GrowthTask
from node.growth.laying import Laid
from node.growth.planning import Signing, make_growth_plan
from node.growth.working import grow
from node.held_out import write_validation
from node.hold_out import VALIDATION_FRACTION, hold_out
from node.jobs import CONTRIBUTION_FILE, VALIDATION_FILE, LearningJob, LearningResult
from node.learning import learn
from node.leaves import LeafBook
from node.outbox import Outbox
from node.plan import Plan, make_plan
from node.stream.gathered import Gathered
from swarm.config import NodeHome
from swarm.data.sources import load_training
from swarm.domain.agent import TrainOrder
from swarm.domain.contributions import Contribution
from swarm.domain.growth import GrowthOrder, ProposalKind
from swarm.domain.ids import ExpertId, LeafId, NodeId, leaf_of
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.modules.blobs import BlobFiles
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement
from tests.support.learning import digits_like, make_specification

NODE = NodeId("rose")


def two_kinds(
    path: Path,
    count: int = 400,
    *,
    share: float = 0.5,
    rare: int = 0,
    seed: int = 0,
    classes: Mapping[int, int] = MappingProxyType({}),
) -> str:
    """Write digits of classes 0 to 3: 2 and 3 are brighter, so that they fall in two, but not so much that
    they are leaves of their own. `share` of them are dark, and `rare` bright samples are of class 0; of each
    of `classes` so many are called class 9."""
    images, labels = digits_like(2 * count, 4, seed=seed, noise=4.0)
    bright = labels >= 2
    images = np.clip(images.astype(np.int64) + 3 * bright[:, None, None], 0, 16).astype(np.uint8)
    rows = np.flatnonzero(~bright)[: int(count * share)]
    kept = np.concatenate([rows, np.flatnonzero(bright)[: count - len(rows)]])
    images, labels = images[kept], labels[kept]
    if rare:
        labels[np.flatnonzero(labels == 2)[:rare]] = 0
    for label, few in classes.items():
        labels[np.flatnonzero(labels == label)[:few]] = 9
    np.savez(path, x=images, y=labels)
    return str(path)


def two_puzzles(path: Path, count: int = 900, *, seed: int = 0) -> str:
    """Write images of classes 0 to 3 that no linear map tells apart, half of them brighter: where one of two
    corners is lit, a dark one is 1 and a bright one 3. A net that is too small for both puzzles can learn
    one."""
    rng = np.random.default_rng(seed)
    bright, first, second = rng.integers(0, 2, (3, count))
    images = rng.normal(4, 1, (count, 8, 8)) + 2.5 * bright[:, None, None]
    images[:, :4, :4] += 4 * first[:, None, None]
    images[:, 4:, 4:] += 4 * second[:, None, None]
    np.savez(path, x=np.clip(images, 0, 16).astype(np.uint8), y=2 * bright + (first ^ second))
    return str(path)


def mega_batch(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """Write a mega-batch `<name>.npz`, and beside it its training and validation samples as an intake leaves
    them; return the file of the former."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=images, y=labels)
    dataset = load_training(str(path), min_classes=1)
    kept, held_out = hold_out(dataset.inputs, dataset.labels, VALIDATION_FRACTION)
    training = path.with_suffix(".training.npz")
    Gathered.of(dataset, kept, str(path)).save(training)
    write_validation(path.with_suffix(".validation.npz"), dataset.subset(held_out), len(held_out))
    return training


class Plot:
    """One node's home, book and outbox, what it learns, and what growth makes of that."""

    def __init__(self, folder: Path, **specification: Any) -> None:
        self.folder, self.home = folder, NodeHome(folder / "home")
        self.cache = BlobFiles(self.home.cache)
        self.book, self.outbox = LeafBook(self.home.state), Outbox(self.home.outbox)
        fields: dict[str, Any] = {"max_leaves_per_owner": 8, **specification}
        self.specification, self.signer = make_specification(self.cache, **fields), Signer.generate()
        self.novel = self.home.state / "novel.shard.npz"
        self._numbers = 0

    def learn(self, data: str, **order: Any) -> LearningResult:
        """Train on data as a node does, and let everything be accepted."""
        folder = self.late_training(data, **order)
        self.land(folder)
        return LearningResult.read(folder)

    def late_training(self, data: str, **order: Any) -> Path:
        """Train on data, and return the job's folder before anything of it is signed."""
        torch.set_num_threads(1)
        folder = self._new_folder("learn")
        if "gathered" in order:
            beside = order["gathered"][-1].replace(".training.", ".validation.")
            (folder / VALIDATION_FILE).write_bytes(Path(beside).read_bytes())
        job = LearningJob(
            node=NODE,
            order=TrainOrder(data=data, **{"net": "mlp:16x1", "steps": 60, "sums": "exact", **order}),
            specification=self.specification,
            blob_folder=str(self.home.cache),
            existing=existing_leaves(self.book),
            branches=existing_branches(self.book),
            first_free_leaf=self.book.first_free,
        )
        job.write(folder)
        result = learn(job, folder, lambda stage, message, fraction: None)
        result.write(folder)
        self.home.state.mkdir(parents=True, exist_ok=True)
        if (folder / "validation.npz").exists():
            (self.home.state / "validation.npz").write_bytes((folder / "validation.npz").read_bytes())
        return folder

    def learn_batch(self, path: Path, images: np.ndarray, labels: np.ndarray, **order: Any) -> LearningResult:
        """Learn a mega-batch as a stream does, added to what the leaves stand for."""
        folder = self.late_batch(path, images, labels, **order)
        self.land(folder)
        return LearningResult.read(folder)

    def late_batch(self, path: Path, images: np.ndarray, labels: np.ndarray, **order: Any) -> Path:
        """Learn a mega-batch, and return the job's folder before anything of it is signed."""
        gathered = str(mega_batch(path, images, labels))
        return self.late_training("stream", gathered=(gathered,), accumulate=True, **order)

    def land(self, folder: Path) -> Plan:
        """Sign what a training job came to, and let everything be accepted."""
        plan = make_plan(
            LearningResult.read(folder),
            folder,
            self.book,
            job=folder.name,
            owner=NODE,
            signer=self.signer,
            specification=self.specification,
            share="public",
            gate_version=1,
            import_paths=(),
            now=5.0,
        )
        self.deliver(plan, folder)
        return plan

    def order(self, kind: ProposalKind, *experts: str, proposal: str = "p1", **options: str) -> GrowthOrder:
        """Return an order against the node's last contribution."""
        return GrowthOrder(
            proposal=proposal,
            kind=kind,
            experts=tuple(ExpertId(expert) for expert in experts),
            gate_version=1,
            before=self.given().digest,
            options=options,
        )

    def maker(self, order: GrowthOrder) -> JobMaker:
        return JobMaker(
            home=self.home,
            node=NODE,
            book=self.book,
            registry=None,  # type: ignore[arg-type]  # nothing is asked of it
            specification=self.specification,
            order=order,
            net="mlp:16x1",
            novel=self.novel,
        )

    def grow(
        self, order: GrowthOrder, task: GrowthTask, *leaves: str, new: int = 0, **more: Any
    ) -> tuple[GrowthResult, Plan]:
        """Do one task, and deliver what it made."""
        first = self.book.reserve(new) if new else 0
        job = self.maker(order).job(
            task,
            [LeafId(leaf) for leaf in leaves],
            new=[leaf_of(NODE, first + place) for place in range(new)],
            **more,
        )
        return self.do(order, job)

    def do(self, order: GrowthOrder, job: GrowthJob) -> tuple[GrowthResult, Plan]:
        """Do a job, and deliver what it made."""
        folder = self._new_folder(job.task)
        job.write(folder)
        result = grow(GrowthJob.read(folder), folder, lambda stage, message, fraction: None)
        result.write(folder)
        return GrowthResult.read(folder), self.plan(order, folder)

    def plan(self, order: GrowthOrder, folder: Path) -> Plan:
        signing = Signing(
            owner=NODE, signer=self.signer, specification=self.specification, gate_version=1, now=6.0
        )
        make_growth_plan(GrowthResult.read(folder), folder, self.book, order, signing)
        plan = Plan.read(folder)
        assert plan is not None
        self.deliver(plan, folder)
        return plan

    def deliver(self, plan: Plan, folder: Path) -> None:
        """Apply a plan (twice: a crash may come between) and let all of it be accepted."""
        made = BlobFiles(folder / "blobs")
        for digest in made.digests():
            self.cache.put(made.open_verified(digest))
        plan.apply(folder, self.book, self.outbox)
        for intent in plan.apply(folder, self.book, self.outbox):
            if intent.kind == "publish":
                statement = read_statement(intent.envelope, Manifest)
                self.book.note_accepted(
                    statement,
                    Head(
                        expert=statement.value.expert,
                        version=statement.value.version,
                        manifest=statement.digest,
                    ),
                )
            else:
                self.book.contributions.note_active(intent.envelope)
            self.outbox.done(intent)
        if plan.contribution:
            self.last = folder

    def given(self) -> Statement[Contribution]:
        """Return the contribution that was given last."""
        plan = Plan.read(self.last)
        assert plan is not None
        return read_statement(plan.contribution.encode(), Contribution)

    def laid(self) -> Laid:
        """Return the arrays of the contribution that was given last."""
        return Laid.read(self.given().value, self.last / CONTRIBUTION_FILE)

    def head(self, leaf: str) -> Manifest:
        known = self.book.leaf(LeafId(leaf))
        assert known is not None
        return self.book.signed(known.manifest).value

    def _new_folder(self, name: str) -> Path:
        self._numbers += 1
        folder = self.folder / f"{self._numbers}-{name}"
        folder.mkdir(parents=True)
        return folder


def columns(laid: Laid, *leaves: str) -> Mapping[str, np.ndarray]:
    """Return F't by class, int64 [M], summed over some leaves."""
    found: dict[str, np.ndarray] = {}
    for leaf in leaves:
        one = laid.leaf(LeafId(leaf))
        for place, name in enumerate(sorted(one.class_counts)):
            found[name] = found.get(name, 0) + one.arrays["columns"][:, place].astype(np.int64)
    return found


__all__ = ["NODE", "Plot", "columns", "two_kinds"]
