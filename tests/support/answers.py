"""A router over a small analytic gate, with experts in this process: four classes, features are the inputs.

The class scores of a sample are the sample itself. ada knows a and b, bob c and d, dan c in part;
eve knows a and gave no sums. An expert is sure of the largest of its own classes; its correction raises the
first of them by `LIFT` and lowers the others alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.inference import Inference
from coordinator.live_nodes import LiveNodes
from swarm.answering.active_gate import ActiveGate
from swarm.answering.expert_calls import ExpertCalls
from swarm.answering.feature_service import FeatureService
from swarm.answering.head_changes import HeadChanges
from swarm.answering.known_head import KnownHead
from swarm.answering.routing import Router
from swarm.digests import digest_of
from swarm.domain.combination import Combination
from swarm.domain.errors import NotFoundError, UnreachableError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import Digest, ExpertId, NodeId, expert_of, leaf_of
from swarm.domain.inference import Answer, ExpertAnswer, ExpertRequest, Query
from swarm.domain.manifests import Correction, Manifest
from swarm.domain.membership import Hello
from swarm.domain.specification import Specification
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.gate_arrays import target_rows
from swarm.gating.prototype_gate import PrototypeGate
from swarm.trust.statements import Statement
from tests.support.trust import manifest, module, specification

CLASSES = ("a", "b", "c", "d")
KNOWS = {"ada": "ab", "bob": "cd", "dan": "c", "eve": "a"}
SHARE = {("ada", "a"): 1.0, ("ada", "b"): 1.0, ("bob", "c"): 0.6, ("dan", "c"): 0.4, ("bob", "d"): 1.0}
FIXED_POINT = 32.0
LIFT = 2.0
TRUNK_FLOPS, EXPERT_FLOPS = 1000, 50
DISTANCE_FLOPS = 2 * 4 * 4
"""Of how far out a row lies: four prototypes of four features."""
COMBINATIONS = (
    Combination(name="prototypes", temperature=1.0, top_k=1),
    Combination(name="root", class_temperature=0.1),
    Combination(name="gate", temperature=0.1, top_k=2),
    Combination(name="poe", temperature=0.1, top_k=2, strength=1.0),
    Combination(name="corrected", temperature=0.1, top_k=2, strength=0.5, class_temperature=0.2),
)

Floats = NDArray[np.float32]


def inputs(names: str) -> Floats:
    """One sample for each class named."""
    return np.eye(4, dtype=np.float32)[[CLASSES.index(name) for name in names]]


def spec() -> Specification:
    return replace(specification(), class_names=CLASSES)


def leaves() -> tuple[GateLeaf, ...]:
    return tuple(
        GateLeaf(
            leaf=leaf_of(NodeId(owner), 0),
            owner=NodeId(owner),
            expert=expert_of(leaf_of(NodeId(owner), 0)),
            class_names=tuple(known),
            has_columns=owner != "eve",
        )
        for owner, known in KNOWS.items()
    )


def gate(served: str = "gate", *, sums: bool = True, version: int = 7) -> ActiveGate:
    """An active gate that serves a combination; without sums it has prototypes only."""
    kept = COMBINATIONS if sums else COMBINATIONS[:1]
    rows = leaves() if sums else tuple(replace(leaf, has_columns=False) for leaf in leaves())
    statement = GateStatement(
        swarm=spec().swarm,
        version=version,
        kind="analytic" if sums else "prototypes",
        specification=digest_of(b"specification"),
        trunk=spec().trunk.digest,
        contributions=tuple(digest_of(owner.encode()) for owner in KNOWS),
        leaves=rows,
        class_names=CLASSES,
        combinations=kept,
        served=[each.name for each in kept].index(served),
        ridge=1.0,
        arrays=(),
        evidence={},
        reason="",
        created_at=0.0,
    )
    prototypes = PrototypeGate(
        prototypes=np.stack([inputs(known).mean(axis=0) for known in KNOWS.values()]),
        leaf_rows=np.arange(4, dtype=np.int32),
        log_prior=np.zeros(4, np.float32),
        radii=np.ones((4, 3), np.float32),
        leaves=4,
        temperature=1.0,
    )
    return ActiveGate(
        statement=Statement(value=statement, digest=digest_of(b"gate"), envelope=b"", key_id=""),
        prototypes=prototypes,
        analytic=_analytic(rows) if sums else None,
    )


def _analytic(rows: Sequence[GateLeaf]) -> AnalyticGate:
    leaf_rows, class_rows = target_rows(rows, CLASSES)
    weights = np.zeros((5, len(leaf_rows)), np.float32)
    for target, (leaf, column) in enumerate(zip(leaf_rows, class_rows, strict=True)):
        weights[column, target] = SHARE[(rows[leaf].owner, CLASSES[column])] / FIXED_POINT
    return AnalyticGate(
        weights=weights,
        leaf_rows=leaf_rows,
        class_rows=class_rows,
        leaves=len(rows),
        classes=4,
        fixed_point=FIXED_POINT,
        has_constant=False,
    )


def head(owner: str, *, corrects: bool = True, share: Any = "borrow") -> KnownHead:
    """The published version of an owner's expert."""
    value: Manifest = manifest(owner, 0)
    known = tuple(KNOWS[owner])
    correction = Correction(
        modules=(module("correction"),),
        base=digest_of(b"gate"),
        class_temperature=0.2,
        metrics={},
        cost=value.cost,
    )
    value = replace(
        value,
        class_names=known,
        net=replace(value.net, classes=len(known)),
        share=share,
        correction=correction if corrects else None,
    )
    return KnownHead(manifest=value, digest=digest_of(b"manifest of " + owner.encode()))


@dataclass
class Owner:
    """One owner's end of its stream."""

    node: NodeId
    hello: Hello
    heads: dict[Digest, KnownHead]
    asked: list[ExpertRequest] = field(default_factory=list)
    fails: bool = False
    spoils: Any = None

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        if self.fails:
            raise UnreachableError(f"node {self.node}", found="no answer")
        self.asked.append(request)
        return [self._answer(request.inputs[task.rows], task) for task in request.tasks]

    def _answer(self, rows: NDArray[Any], task: Any) -> ExpertAnswer:
        value = self.heads[task.manifest].manifest
        own = rows[:, [CLASSES.index(name) for name in value.class_names]]
        if task.form == "corrections":
            values = np.full(own.shape, 0.0, np.float32)
            values[:, 0] = LIFT
            values -= values.mean(axis=1, keepdims=True)
        else:
            values = np.eye(own.shape[1], dtype=np.float32)[own.argmax(axis=1)]
        answer = ExpertAnswer(
            expert=task.expert,
            version=value.version,
            manifest=task.manifest,
            class_names=value.class_names,
            values=values,
            module_digests=(),
            flops_per_query=EXPERT_FLOPS,
            form=task.form,
        )
        return self.spoils(answer) if self.spoils else answer

    def announce(self, **_: object) -> None: ...

    def close(self, reason: str) -> None: ...


class SmallHeads(dict[ExpertId, KnownHead]):
    """The newest versions, and in `pinned` what gates pin, as far as it is there."""

    def __init__(self, known: dict[ExpertId, KnownHead]) -> None:
        super().__init__(known)
        self.pinned: dict[str, KnownHead] = {}
        self._changes, self._before = HeadChanges(), (dict(self), dict(self.pinned))

    @property
    def changes(self) -> HeadChanges:
        """What was changed since the last look, whoever did it."""
        present = dict(self), dict(self.pinned)
        if present != self._before:
            self._changes.note(*KNOWS)
            self._before = present
        return self._changes

    def answering(self, leaf: GateLeaf) -> KnownHead | None:
        return self.pinned.get(leaf.manifest) if leaf.manifest else self.get(leaf.expert)


class SmallSwarm:
    """A router and its owners; `owners[name].fails` or `.spoils` disturb one, `gone` disconnects it."""

    def __init__(
        self, active: ActiveGate | None = None, *, corrects: str = "ada bob dan eve", profiles: Any = None
    ) -> None:
        self.active = active if active is not None else gate()
        self.heads = SmallHeads(
            {
                expert_of(leaf_of(NodeId(owner), 0)): head(owner, corrects=owner in corrects.split())
                for owner in KNOWS
            }
        )
        self.live = LiveNodes(lambda: 0.0)
        self.owners = {owner: self._connect(owner) for owner in KNOWS}
        features = SimpleNamespace(
            flops_per_query=TRUNK_FLOPS, features=lambda rows: rows.astype(np.float32, copy=False)
        )
        self.features = FeatureService(lambda: features)
        self.router = Inference(
            active=lambda: self.active,
            specification=spec,
            features=self.features,
            router=Router(
                active=lambda: self.active,
                specification=spec,
                heads=self.heads,  # type: ignore[arg-type]  # what routing asks of heads
                features=self.features,
                calls=ExpertCalls(self.live),
                older=self._older,
            ),
            profiles=profiles,
        )

    async def _older(self, version: int) -> ActiveGate:
        raise NotFoundError(f"gate {version}")

    def gone(self, owner: str) -> None:
        self.live.remove(self.owners[owner])  # type: ignore[arg-type]

    async def ask(self, names: str, **options: Any) -> Answer:
        """Ask about one sample of each class named."""
        given = {"explain": True} | options
        return await self.router.predict(Query(inputs=inputs(names), **given), 20.0)

    def _connect(self, owner: str, serves: str = "") -> Owner:
        hello = Hello(
            advertise="",
            can_build=(),
            manifests=(),
            served=tuple(head(name).digest for name in serves.split()),
            gate_version=0,
            software="test",
        )
        link = Owner(
            node=NodeId(owner), hello=hello, heads={known.digest: known for known in self.heads.values()}
        )
        self.live.add(link, 1)  # type: ignore[arg-type]
        return link


def best(answer: Answer) -> str:
    """The most probable class of each row."""
    return "".join(answer.class_names[row] for row in answer.probabilities.argmax(axis=1))
