"""Versions of a node's experts, waiting in its outbox as training leaves them; nothing is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from node.leaves import LeafBook
from node.outbox import Outbox
from swarm.config import NodeHome
from swarm.domain.ids import NodeId, expert_of, leaf_of
from swarm.domain.manifests import Manifest, NetReference, Parent
from swarm.domain.specification import Specification
from swarm.modules import BlobFiles, pack_module
from swarm.trust.identity import Identity
from swarm.trust.statements import read_statement, sign_statement
from tests.support.trust import manifest


def lay_down(
    home: NodeHome, specification: Specification, number: int = 1, version: int = 1, *, size: int = 400
) -> None:
    """Put the next version of a node's expert into its outbox; its agent must not run meanwhile. Again: the
    same, unless it was accepted."""
    identity = Identity.load(home.identity)
    book, cache = LeafBook(home.state), BlobFiles(home.cache)
    leaf = leaf_of(NodeId(identity.id), number)
    known, subject = book.leaf(leaf), f"{expert_of(leaf)}@{version}"
    if known is not None and known.version >= version:
        envelope = book.signed(known.manifest).envelope
        if known.head_version < version:
            Outbox(home.outbox).put("publish", key=f"job-{subject}", subject=subject, envelope=envelope)
        return
    seed = 1000 * number + version
    weights = {
        "weight": np.random.default_rng(seed).normal(size=size).astype(np.float32),
        "scale": np.full(4, number, np.float32),
    }
    module, blobs = pack_module("head", weights)
    for data in blobs.values():
        cache.put(data)
    made = manifest(identity.id, number, version, specification.swarm)
    names = specification.class_names[:2]
    made = replace(
        made,
        modules=(module,),
        parents=(Parent(kind="trained-from", manifest=known.manifest),) if known else (),
        trunk=specification.trunk.digest,
        class_names=names,
        net=NetReference(
            factory="mlp:8x1", input_shape=specification.input_shape, classes=len(names), code_digest=""
        ),
        share="public",
        created_at=float(seed),
    )
    envelope = sign_statement(made, identity.required_signer())
    book.note_signed(
        read_statement(envelope, Manifest),
        class_counts={names[0]: 5},
        import_paths=(),
        summary=_summary(home),
    )
    Outbox(home.outbox).put("publish", key=f"job-{subject}", subject=subject, envelope=envelope)


def _summary(home: NodeHome) -> Path:
    path = home.root / "summary.npz"
    path.write_bytes(b"summary")
    return path
