"""From a job's result to what is signed and put into the outbox: versions, corrections, contributions."""

from pathlib import Path

import torch

from node.jobs import CONTRIBUTION_FILE, LearningResult
from node.learning import learn
from node.leaves import LeafBook
from node.outbox import Intent, Outbox
from node.plan import Plan, make_plan
from swarm.domain.agent import TrainOrder
from swarm.domain.contributions import Contribution
from swarm.domain.ids import LeafId, NodeId
from swarm.domain.manifests import Manifest
from swarm.modules.blobs import BlobFiles
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement
from tests.support.learning import continued, gate_of, make_job, make_specification

LEAF = LeafId("rose.l1")


class Desk:
    """One node's book and outbox, and how jobs come to them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, BlobFiles(folder / "cache")
        self.book, self.outbox = LeafBook(folder / "state"), Outbox(folder / "outbox")
        self.specification, self.signer = make_specification(self.cache), Signer.generate()

    def run(self, name: str, order: TrainOrder, **changes: object) -> tuple[LearningResult, list[Intent]]:
        torch.set_num_threads(1)
        folder = self.folder / name
        job = make_job(folder, order, specification=self.specification, **changes)
        result = learn(job, folder, lambda stage, message, fraction: None)
        result.write(folder)
        make_plan(
            result,
            folder,
            self.book,
            job=name,
            owner=NodeId("rose"),
            signer=self.signer,
            specification=self.specification,
            share="public",
            gate_version=3,
            import_paths=(),
            now=5.0,
        )
        plan = Plan.read(folder)
        assert plan is not None
        plan.apply(folder, self.book, self.outbox)
        return result, plan.apply(folder, self.book, self.outbox)

    def newest(self) -> Manifest:
        leaf = self.book.leaf(LEAF)
        assert leaf is not None
        return self.book.signed(leaf.manifest).value


def test_a_contribution_goes_out_as_the_file_that_the_job_laid_down(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    result, intents = desk.run("plain", TrainOrder(data="digits", steps=1))
    assert [intent.kind for intent in intents] == ["publish", "contribute"]
    assert len(desk.outbox) == 2  # though the plan was applied twice
    contribution = read_statement(intents[1].envelope, Contribution).value
    assert result.contribution is not None
    assert (contribution.leaves, contribution.sums) == (result.contribution.leaves, result.contribution.sums)
    assert (contribution.epoch, contribution.trunk) == (1, desk.specification.trunk.digest)
    arrays = desk.outbox.arrays(intents[1])
    assert arrays is not None and arrays.samefile(tmp_path / "plain" / CONTRIBUTION_FILE)
    assert desk.book.sums(LEAF).samefile(tmp_path / "plain" / result.leaves[0].sums)


def test_a_correction_makes_the_next_version_and_plain_training_one_without(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    plain = tmp_path / "plain"
    desk.run("plain", TrainOrder(data="digits", steps=100))
    first, kept = desk.newest(), desk.book.sums(LEAF).read_bytes()
    result, intents = desk.run(
        "refined",
        TrainOrder(data="digits", steps=100, refine=True),
        existing=continued(plain, desk.cache),
        gate=gate_of(plain, desk.specification, desk.cache),
        gate_digest="ab" * 32,
    )
    second = desk.newest()
    assert [intent.kind for intent in intents] == ["publish"]
    assert (second.version, second.parent_version) == (2, 1)
    assert second.correction == result.refined[0].correction
    assert (second.modules, second.share, second.cost) == (first.modules, first.share, first.cost)
    assert second.parents[0].kind == "trained-from"
    assert set(second.blobs()) > set(first.blobs())
    assert desk.book.sums(LEAF).read_bytes() == kept and desk.book.epoch == 1
    order = TrainOrder(data="digits", steps=1, sums="none")
    desk.run("again", order, existing=continued(plain, desk.cache))
    third = desk.newest()
    assert (third.version, third.correction) == (3, None)
    assert not desk.book.sums(LEAF).exists()
