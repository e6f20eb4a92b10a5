"""What a child moves whose head alone was trained: bytes at the node's sockets over those that changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.registry.world import World
from swarm.domain.ids import Digest, NodeId, expert_of, leaf_of
from swarm.domain.manifests import Manifest, Parent
from swarm.modules import BlobFiles, pack_module
from swarm.trust.statements import sign_statement, statement_digest
from tests.support.trust import manifest

WIDTH, LAYERS = 2048, 4
Weights = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]


def child_figures(world: World) -> dict[str, float]:
    """Return the ratio for a head of 1000 classes, and what is moved beyond the head with one of 10."""
    wide, changed = _moved(world, classes=1000, number=9000)
    narrow, narrow_changed = _moved(world, classes=10, number=9001)
    return {
        "child_bytes_over_changed": wide / changed,
        "child_changed_bytes": changed,
        "child_small_head_changed_bytes": narrow_changed,
        "child_small_head_moved_bytes": narrow,
    }


def _moved(world: World, classes: int, number: int) -> tuple[int, int]:
    """Publish a parent and its child through the wire; return the child's bytes sent, and those changed."""
    rng = np.random.default_rng(classes)
    body = {
        f"layer{each}": {
            "weight": rng.normal(size=(WIDTH, WIDTH)).astype(np.float32),
            "bias": rng.normal(size=WIDTH).astype(np.float32),
        }
        for each in range(LAYERS)
    }

    def head() -> dict[str, np.ndarray[Any, Any]]:
        weight = rng.normal(size=(classes, WIDTH)).astype(np.float32)
        return {"weight": weight, "bias": rng.normal(size=classes).astype(np.float32)}

    leaf = leaf_of(NodeId("ada"), number)
    first = replace(manifest("ada", 0), leaf=leaf, expert=expert_of(leaf))
    parent, blobs = _packed(first, {**body, "head": head()})
    _publish(world, parent, blobs)
    trained = head()
    later = replace(
        first,
        version=2,
        parent_version=1,
        parents=(Parent(kind="trained-from", manifest=statement_digest(_signed(world, parent))),),
    )
    child, blobs = _packed(later, {**body, "head": trained})
    return _publish(world, child, blobs), sum(each.nbytes for each in trained.values())


def _packed(made: Manifest, weights: Weights) -> tuple[Manifest, dict[Digest, bytes]]:
    modules, blobs = [], dict[Digest, bytes]()
    for name, arrays in weights.items():
        entry, packed = pack_module(name, arrays)
        modules.append(entry)
        blobs.update(packed)
    return replace(made, modules=tuple(modules)), blobs


def _publish(world: World, made: Manifest, blobs: Mapping[Digest, bytes]) -> int:
    files = BlobFiles(world.cache)
    for data in blobs.values():
        files.put(data)
    sent: int = world.node.ask(do="publish", digests=list(blobs))["sent"]
    envelope = _signed(world, made).decode()
    return sent + int(world.node.ask(do="commit", envelope=envelope, fence=world.fence)["sent"])


def _signed(world: World, made: Manifest) -> bytes:
    return sign_statement(made, world.ada.required_signer())
