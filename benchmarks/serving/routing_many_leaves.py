"""`python -m benchmarks.serving.routing_many_leaves`: what routing one query takes over many leaves, into
serving-routing-many-leaves.json.

The router is the coordinator's and the direct client's (`swarm.answering.routing.Router`), with features that
are there at once and experts that answer at once: a decision is all else, from the query to its answer, the
gate's lookup and four turns of a thread pool included. Each leaf has one prototype (of `overlapping` data,
`mixtures.py`) and an expert of its own; an owner has LEAVES_EACH of them. `owner` names one owner, whose
leaves rarely are among those near a row, so that the whole gate is asked. Before a query of `new_version` one
expert got another version; before the one of `first` the gate was not routed by. BLAS has one thread.
"""

import argparse
import asyncio
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.results_file import machine, over_seeds, write_result
from benchmarks.serving.mixtures import KINDS, SIZE, leaves_of
from swarm.answering.active_gate import ActiveGate
from swarm.answering.expert_calls import ExpertCalls
from swarm.answering.head_changes import HeadChanges
from swarm.answering.known_head import KnownHead
from swarm.answering.routing import Router
from swarm.digests import digest_of
from swarm.domain.combination import Combination
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import Digest, ExpertId, NodeId, expert_of, leaf_of
from swarm.domain.inference import ExpertAnswer, ExpertRequest, Query
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.gating.prototype_gate import DEFAULT_FACTOR, PrototypeGate
from swarm.trust.statements import Statement
from tests.support.trust import manifest, module, specification

SIZES = (1_000, 10_000, 100_000)
LEAVES_EACH = 10
TOP_K = 2
CLASSES = ("beech", "oak")
_WARM = 20


class Heads:
    """One version for each leaf."""

    def __init__(self, leaves: Sequence[GateLeaf]) -> None:
        self.changes, self._known = HeadChanges(), dict[ExpertId, KnownHead]()
        value = manifest()
        self._value = dataclasses.replace(
            value, class_names=CLASSES, net=dataclasses.replace(value.net, input_shape=(SIZE,))
        )
        for leaf in leaves:
            self.publish(leaf)

    def publish(self, leaf: GateLeaf) -> None:
        """Give a leaf's expert a version that computes what no other does."""
        known = self._known.get(leaf.expert)
        version = 1 if known is None else known.manifest.version + 1
        name = f"{leaf.expert}@{version}"
        value: Manifest = dataclasses.replace(
            self._value,
            expert=leaf.expert,
            leaf=leaf.leaf,
            owner=leaf.owner,
            version=version,
            parent_version=version - 1,
            modules=(module(name),),
        )
        self._known[leaf.expert] = KnownHead(manifest=value, digest=digest_of(name.encode()))
        self.changes.note(leaf.expert)

    def answering(self, leaf: GateLeaf) -> KnownHead | None:
        return self._known.get(leaf.expert)

    def get(self, expert: ExpertId) -> KnownHead | None:
        return self._known.get(expert)


class Node:
    """Holds every expert, and answers at once. Implements `LiveExperts`, `ExpertLink` and `Holders`."""

    suspected = False

    def __init__(self, node: NodeId) -> None:
        self.node = node

    @property
    def link(self) -> "Node":
        return self

    def get(self, node: NodeId) -> "Node":
        return self

    def holders(self, manifest: Manifest, digest: Digest) -> list["Node"]:
        return [self]

    def holds(self, node: NodeId, manifest: Manifest, digest: Digest) -> bool:
        return True

    async def predict(self, request: ExpertRequest, timeout_s: float) -> list[ExpertAnswer]:
        return [
            ExpertAnswer(
                expert=task.expert,
                version=1,
                manifest=task.manifest,
                class_names=CLASSES,
                values=np.full((len(task.rows), len(CLASSES)), 0.5, np.float32),
                module_digests=(),
                flops_per_query=1.0,
                form=task.form,
            )
            for task in request.tasks
        ]


class Features:
    """Inputs that are their own features."""

    flops_per_query = 0

    async def features(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return inputs


def gate_of(leaves: int, seed: int) -> tuple[Callable[[], ActiveGate], NDArray[np.float32]]:
    """Return what makes a gate of so many leaves, and samples of them."""
    data = leaves_of(KINDS["overlapping"], leaves, 1, seed)
    names = [leaf_of(NodeId(f"n{row // LEAVES_EACH}"), row % LEAVES_EACH) for row in range(leaves)]
    rows = tuple(
        GateLeaf(
            leaf=name,
            owner=NodeId(f"n{row // LEAVES_EACH}"),
            expert=expert_of(name),
            class_names=CLASSES,
        )
        for row, name in enumerate(names)
    )
    prototypes = PrototypeGate(
        prototypes=data.prototypes,
        leaf_rows=data.leaf_rows,
        log_prior=np.log1p(data.counts).astype(np.float32),
        radii=data.radii,
        leaves=leaves,
        temperature=1.0,
    )
    served = Combination(name="prototypes", temperature=DEFAULT_FACTOR * prototypes.scale, top_k=TOP_K)
    statement = GateStatement(
        swarm=_specification().swarm,
        version=1,
        kind="prototypes",
        specification=digest_of(b"specification"),
        trunk=_specification().trunk.digest,
        contributions=(),
        leaves=rows,
        class_names=CLASSES,
        combinations=(served,),
        served=0,
        ridge=1.0,
        arrays=(),
        evidence={},
        reason="",
        created_at=0.0,
    )
    signed = Statement(value=statement, digest=digest_of(b"gate"), envelope=b"", key_id="")

    def made() -> ActiveGate:
        return ActiveGate(statement=signed, prototypes=prototypes, analytic=None)

    return made, data.drawn(1000, 1)[0]


def _specification() -> Specification:
    return dataclasses.replace(specification(), input_shape=(SIZE,), class_names=CLASSES)


async def measured(leaves: int, seed: int, queries: int) -> dict[str, float]:
    """Return one seed's figures over so many leaves."""
    made, samples = gate_of(leaves, seed)
    active = made()
    heads = Heads(active.value.leaves)

    def router_of(gate: ActiveGate) -> Router:
        return Router(
            active=lambda: gate,
            specification=_specification,
            heads=heads,
            features=Features(),  # type: ignore[arg-type]
            calls=ExpertCalls(Node(NodeId("n0"))),
            older=_never,
        )

    async def asked(router: Router, count: int, before: Callable[[int], None], **options: Any) -> float:
        taken = []
        for row in range(count + _WARM):
            before(row)
            query = Query(inputs=samples[row % len(samples)][None], **options)
            started = time.perf_counter()
            answer = await router.predict(query, 60.0)
            taken.append(time.perf_counter() - started)
            assert not answer.degraded[0]
        return 1e3 * float(np.median(taken[_WARM:]))

    router, few = router_of(active), max(20, queries // 10)
    rows = active.value.leaves
    first = router_of(made())
    began = time.perf_counter()
    await first.predict(Query(inputs=samples[:1]), 60.0)
    found = {"first_ms": 1e3 * (time.perf_counter() - began)}
    found["decision_ms"] = await asked(router, queries, lambda _: None)
    found["owner_ms"] = await asked(router, few, lambda _: None, owners=(rows[len(rows) // 2].owner,))
    found["new_version_ms"] = await asked(router, few, lambda row: heads.publish(rows[7 * row % len(rows)]))
    return found


async def _never(version: int) -> ActiveGate:
    raise NotImplementedError


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--sizes", default=",".join(map(str, SIZES)), help="leaves (%(default)s)")
    found.add_argument("--seeds", default="0,1,2", help="(%(default)s)")
    found.add_argument("--queries", type=int, default=1000)
    found.add_argument("--dry-run", action="store_true", help="write no figures")
    return found


def main() -> None:
    arguments = parser().parse_args()
    print(machine(), file=sys.stderr)
    figures: dict[str, float] = {}
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    for size in map(int, arguments.sizes.split(",")):
        with threadpool_limits(limits=1):
            found = over_seeds([asyncio.run(measured(size, seed, arguments.queries)) for seed in seeds])
        figures |= {f"{size}_{name}": value for name, value in found.items()}
    if f"{max(SIZES)}_decision_ms" in figures:
        figures = {"routed_decision_ms_100k": figures[f"{max(SIZES)}_decision_ms"]} | figures
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    if not arguments.dry_run:
        more = {"queries": arguments.queries, "seeds": len(seeds)}
        write_result("serving-routing-many-leaves", figures | more)


if __name__ == "__main__":
    main()
