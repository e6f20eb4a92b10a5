"""What a finished job will send, signed once and kept, so that a crash between two sends changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from node.durable import write_json
from node.jobs import CONTRIBUTION_FILE, LearningResult
from node.leaves import LeafBook
from node.outbox import Intent, Outbox
from node.statements import contribution_of, manifest_of, refined_manifest
from swarm.domain.ids import NodeId
from swarm.domain.manifests import Manifest, Share
from swarm.domain.specification import Specification
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement

_PLAN = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPublish:
    """One signed manifest with what the node's book keeps about its leaf: files of the job's folder. Without
    a summary the manifest differs from the one before in its correction alone."""

    key: str
    envelope: str
    class_counts: Mapping[str, int]
    summary: str
    sums: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The manifests to publish and then the contribution (empty: nothing to contribute)."""

    publishes: tuple[PlannedPublish, ...]
    import_paths: tuple[str, ...]
    contribution: str = ""
    contribution_key: str = ""
    epoch: int = 0

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
                "publishes": tuple(PlannedPublish(**one) for one in kept["publishes"]),
                "import_paths": tuple(kept["import_paths"]),
            }
        )

    def apply(self, folder: Path, book: LeafBook, outbox: Outbox) -> list[Intent]:
        """Note the new versions in the book and put everything into the outbox; safe to repeat."""
        intents = []
        for one in self.publishes:
            statement = read_statement(one.envelope.encode(), Manifest)
            if one.summary:
                book.note_signed(
                    statement,
                    class_counts=one.class_counts,
                    import_paths=self.import_paths,
                    summary=folder / one.summary,
                    sums=folder / one.sums if one.sums else None,
                )
            else:
                book.note_refined(statement)
            subject = f"{statement.value.expert}@{statement.value.version}"
            intents.append(outbox.put("publish", key=one.key, subject=subject, envelope=statement.envelope))
        if self.contribution:
            book.note_epoch(self.epoch)
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
        publishes.append(_planned(manifest, signer, job, refined.class_counts))
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
        publishes.append(_planned(manifest, signer, job, learned.class_counts, learned.summary, learned.sums))
    plan = Plan(publishes=tuple(publishes), import_paths=import_paths)
    if result.contribution is not None:
        contribution = contribution_of(
            result.contribution, owner=owner, specification=specification, epoch=book.epoch + 1, now=now
        )
        plan = Plan(
            publishes=plan.publishes,
            import_paths=import_paths,
            contribution=sign_statement(contribution, signer).decode(),
            contribution_key=f"{job}-contribution",
            epoch=contribution.epoch,
        )
    write_json(folder / _PLAN, asdict(plan))
    return plan


def _planned(
    manifest: Manifest,
    signer: Signer,
    job: str,
    class_counts: Mapping[str, int],
    summary: str = "",
    sums: str = "",
) -> PlannedPublish:
    return PlannedPublish(
        key=f"{job}-{manifest.expert}",
        envelope=sign_statement(manifest, signer).decode(),
        class_counts=dict(class_counts),
        summary=summary,
        sums=sums,
    )
