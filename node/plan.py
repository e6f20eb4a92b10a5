"""What a finished job will send, signed once and kept, so that a crash between two sends changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import structlog

from node.durable import link_durably, write_json
from node.growth.changes import TreeChange
from node.growth.jobs import GrownLeaf, ReshapedLeaf
from node.jobs import CONTRIBUTION_FILE, LearnedLeaf, LearningJob, LearningResult
from node.leaves import LeafBook
from node.outbox import Intent, Outbox
from node.statements import contribution_of, manifest_of, refined_manifest
from swarm.domain.contributions import Contribution
from swarm.domain.ids import LeafId, NodeId
from swarm.domain.manifests import Manifest, Share
from swarm.domain.specification import Specification
from swarm.trust.signing import Signer
from swarm.trust.statements import Statement, read_statement, sign_statement, statement_digest

_PLAN = "plan.json"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPublish:
    """One signed manifest with what the node's book keeps about its leaf: files of the job's folder. Without
    a summary the leaf stands for the same samples as before. `moved_out`: what was learned adds to what the
    leaf stood for once these proposals had moved samples of it (None: it adds to nothing).
    """

    key: str
    envelope: str
    class_counts: Mapping[str, int]
    summary: str
    sums: str
    shard: str = ""
    memory: str = ""
    moved_out: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The manifests to publish and then the contribution (empty: nothing to contribute).

    `change` is what a proposal changes in the tree of the node's leaves, `unpins` the proposal whose leaves
    answer with their heads from now on, `split_gates` the file of each branch's learned gate, `reshaped` the
    leaves of which samples move. `note` says why what was learned is not contributed.
    """

    publishes: tuple[PlannedPublish, ...]
    import_paths: tuple[str, ...]
    contribution: str = ""
    contribution_key: str = ""
    epoch: int = 0
    change: TreeChange | None = None
    unpins: str = ""
    split_gates: Mapping[LeafId, str] = field(default_factory=dict)
    reshaped: tuple[ReshapedLeaf, ...] = ()
    note: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the plan in a job's folder, None if there is none yet."""
        path = folder / _PLAN
        if not path.exists():
            return None
        kept = json.loads(path.read_bytes())
        return cls(
            **{
                **kept,
                "publishes": tuple(_published(one) for one in kept["publishes"]),
                "reshaped": tuple(ReshapedLeaf(**one) for one in kept.get("reshaped", ())),
                "import_paths": tuple(kept["import_paths"]),
                "change": TreeChange.from_fields(kept["change"]) if kept.get("change") else None,
            }
        )

    def write(self, folder: Path) -> None:
        """Keep the plan in a job's folder, durably."""
        write_json(folder / _PLAN, asdict(self))

    def apply(self, folder: Path, book: LeafBook, outbox: Outbox) -> list[Intent]:
        """Note the new versions in the book and put everything into the outbox; safe to repeat.

        A version of a leaf that was split meanwhile is offered to its children; one of a leaf that is retired
        is set aside with its reason, for no gate can have it.
        """
        intents = []
        if self.change is not None:
            book.keep_reshaped(self.change.proposal, self.reshaped, folder)
            book.tree.note_change(self.change)
        book.tree.unpin(self.unpins)
        for leaf, name in self.split_gates.items():
            link_durably(folder / name, book.split_gate(leaf))
        for one in self.publishes:
            statement = read_statement(one.envelope.encode(), Manifest)
            self._note(one, statement, folder, book)
            subject = f"{statement.value.expert}@{statement.value.version}"
            if book.tree.place(statement.value.leaf).standing == "retired":
                reason = f"{statement.value.leaf} was taken out of the gate meanwhile; the work is kept here"
                outbox.keep(
                    "publish", key=one.key, subject=subject, envelope=statement.envelope, reason=reason
                )
                _log.warning("outbox.kept", subject=subject, reason=reason)
                continue
            intents.append(outbox.put("publish", key=one.key, subject=subject, envelope=statement.envelope))
        if self.contribution:
            book.note_epoch(self.epoch)
            book.contributions.put(self.contribution.encode(), folder / CONTRIBUTION_FILE)
            book.tree.note_contributed(statement_digest(self.contribution.encode()))
            intents.append(
                outbox.put(
                    "contribute",
                    key=self.contribution_key,
                    subject=f"contribution, epoch {self.epoch}",
                    envelope=self.contribution.encode(),
                    arrays=folder / CONTRIBUTION_FILE,
                )
            )
        return intents

    def _note(
        self, one: PlannedPublish, statement: Statement[Manifest], folder: Path, book: LeafBook
    ) -> None:
        leaf = statement.value.leaf
        standing = book.tree.place(leaf).standing
        if not one.summary or (standing != "leaf" and book.leaf(leaf) is not None):
            book.note_refined(statement)
        else:
            book.note_signed(
                statement,
                class_counts=one.class_counts,
                import_paths=self.import_paths,
                summary=folder / one.summary,
                sums=folder / one.sums if one.sums else None,
                shard=folder / one.shard if one.shard else None,
                memory=folder / one.memory if one.memory else None,
                moved_out=one.moved_out,
            )
        if standing == "branch":
            children = book.tree.offer(leaf, str(statement.digest))
            _log.info(
                "leaf.offered", expert=statement.value.expert, version=statement.value.version, to=children
            )


def _published(fields: Mapping[str, Any]) -> PlannedPublish:
    moved_out = fields.get("moved_out")
    return PlannedPublish(**{**fields, "moved_out": None if moved_out is None else tuple(moved_out)})


def make_plan(
    result: LearningResult,
    folder: Path,
    book: LeafBook,
    *,
    job: str,
    owner: NodeId,
    signer: Signer,
    specification: Specification,
    share: Share,
    gate_version: int,
    import_paths: tuple[str, ...],
    now: float,
) -> Plan:
    """Sign what a job learned and keep it in the job's folder. `job` makes the idempotency keys."""
    publishes = []
    for refined in result.refined:
        known = book.leaf(refined.leaf)
        assert known is not None
        manifest = refined_manifest(refined, book.signed(known.manifest), gate_version=gate_version, now=now)
        publishes.append(planned(manifest, signer, job, refined.class_counts))
    learning = LearningJob.read(folder)
    adds_to = {leaf.leaf: leaf.moved_out for leaf in learning.existing} if learning.order.accumulate else {}
    for learned in result.leaves:
        manifest = manifest_of(
            learned,
            owner=owner,
            specification=specification,
            known=book.leaf(learned.leaf),
            share=share,
            gate_version=gate_version,
            now=now,
        )
        one = planned(manifest, signer, job, learned.class_counts, learned)
        publishes.append(replace(one, moved_out=adds_to.get(learned.leaf)))
    plan = Plan(publishes=tuple(publishes), import_paths=import_paths)
    if result.contribution is not None:
        note = _why_not_contributed(result, folder, book)
        plan = replace(plan, note=note)
        if note:
            _log.warning("contribution.left_out", because=note)
        else:
            plan = with_contribution(
                plan,
                contribution_of(
                    result.contribution,
                    owner=owner,
                    specification=specification,
                    epoch=book.epoch + 1,
                    now=now,
                ),
                signer,
                job,
            )
    plan.write(folder)
    trained = {leaf.leaf for leaf in result.leaves}
    for leaf in learning.existing:
        if leaf.offered is not None and leaf.leaf in trained:
            book.tree.note_taken_up(leaf.leaf, leaf.offered.manifest)
    return plan


def with_contribution(plan: Plan, contribution: Contribution, signer: Signer, job: str) -> Plan:
    """Return the plan with a contribution, signed; `job` makes its idempotency key."""
    return replace(
        plan,
        contribution=sign_statement(contribution, signer).decode(),
        contribution_key=f"{job}-contribution",
        epoch=contribution.epoch,
    )


def planned(
    manifest: Manifest,
    signer: Signer,
    job: str,
    class_counts: Mapping[str, int],
    files: LearnedLeaf | GrownLeaf | None = None,
) -> PlannedPublish:
    """Return a signed manifest to publish; `files` names what is kept of its leaf, None: as it was."""
    return PlannedPublish(
        key=f"{job}-{manifest.expert}",
        envelope=sign_statement(manifest, signer).decode(),
        class_counts=dict(class_counts),
        summary=files.summary if files else "",
        sums=files.sums if files else "",
        shard=files.shard if files else "",
        memory=files.memory if isinstance(files, LearnedLeaf) else "",
    )


def _why_not_contributed(result: LearningResult, folder: Path, book: LeafBook) -> str:
    """Return why what a job laid down cannot go out, empty where it can: the tree of leaves has changed since
    the job began, so that a gate with it would lose a leaf or have one twice."""
    assert result.contribution is not None
    if book.tree.on_trial:
        return (
            f"{book.tree.on_trial} changes this node's leaves and is on trial; train again once it has ended"
        )
    live = {leaf.leaf for leaf in book.leaves()}
    given = {leaf.leaf for leaf in result.contribution.leaves}
    learned = {leaf.leaf for leaf in result.leaves}
    known = {leaf.leaf for leaf in LearningJob.read(folder).existing} | learned
    gone = sorted((given & {leaf.leaf for leaf in book.everything()}) - live)
    if gone:
        return f"{', '.join(gone)} was split or removed meanwhile; train again"
    came = sorted(live - known)
    if came:
        return f"{', '.join(came)} came meanwhile; train again"
    return ""
