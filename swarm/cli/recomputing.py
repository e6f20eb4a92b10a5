"""A saved answer computed again on this machine, from what its digests name; all of it is verified."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swarm.answering.active_gate import ActiveGate, gates_of, prototype_temperature
from swarm.answering.answer_board import AnswerBoard
from swarm.answering.combining import Reply
from swarm.answering.expert_calls import Asked
from swarm.answering.gate_reading import Reading
from swarm.answering.known_head import KnownHead
from swarm.answering.replaying import answered_again
from swarm.answering.routing import allowed_leaves, planned
from swarm.answering.vouching import inputs_digest
from swarm.answering.ways import Way
from swarm.cli.answer_files import SavedAnswer
from swarm.cli.output import progress
from swarm.cli.record_checks import check_heads, check_parts, check_way
from swarm.cli.request_files import requested_inputs
from swarm.client.inputs import as_batch
from swarm.data.sources import load_inputs
from swarm.domain.errors import NotAuthorisedError, NotFoundError, UsageError, VerificationError
from swarm.domain.ids import Digest, node_id
from swarm.domain.inference import Answer, ExpertForm, Query
from swarm.domain.replay import Said
from swarm.domain.specification import Specification
from swarm.experts.expert import LoadedExpert
from swarm.experts.inputs import best_device
from swarm.experts.one_thread import computed_on, one_thread
from swarm.experts.trunk import Trunk
from swarm.gating.tiles import in_tiles
from swarm.rpc.verified import VerifiedRegistry

Heads = Sequence[KnownHead | None]


async def computed_again(
    registry: VerifiedRegistry, saved: SavedAnswer, source: str, import_paths: Sequence[str] = ()
) -> tuple[Answer, str]:
    """Return a saved answer computed again here, and what the experts were computed on.

    `source` is a file with its inputs, empty for the one that the answer names; `import_paths` lead to nets
    and a trunk of people's own. Raises NotFoundError for a version that is gone, VerificationError for inputs
    or statements that are not those of the answer, and for a record that its gate contradicts,
    NotAuthorisedError for an expert that its owner alone may hold.
    """
    record = saved.record
    specification = await _specification(registry, record.specification)
    query = _query(saved, source, specification)
    active = await _gate(registry, saved, specification)
    check_way(record, query, active)
    check_parts(record, len(query.inputs), len(active.value.leaves))
    leaves = [await _head(registry, digest) for digest in record.heads]
    check_heads(record, active, leaves)
    experts = {
        each.manifest: await _expert(registry, each, leaves, specification, import_paths)
        for each in record.said
    }
    progress(f"gate {active.version} and {len(experts)} experts are verified")
    trunk = await _trunk(registry, specification, import_paths)

    def planned_again(way: Way, reading: Reading) -> AnswerBoard:
        return planned(way, reading, leaves, allowed_leaves(query.owners, way, active, leaves))

    form = Way(combination=record.combination, evenly=record.evenly).form
    with one_thread():
        features = in_tiles(trunk.features, query.inputs)
        replies = [_reply(experts[each.manifest], each, query.inputs, form) for each in record.said]
        again = answered_again(record, query, active, features, replies, leaves, planned_again)
    return again, computed_on(next(iter(experts.values())).device if experts else trunk.device)


def _query(saved: SavedAnswer, source: str, specification: Specification) -> Query:
    inputs = saved.query["inputs"]
    path = source or str(inputs["path"])
    if not path:
        raise UsageError(
            "inputs of the answer",
            found="no file: it came over the Open Inference Protocol",
            expected="the request, as JSON, or its inputs",
            remedy="name them: --input REQUEST.json, or a .npy or .npz",
        )
    try:
        if path.endswith(".json"):
            batch = requested_inputs(Path(path), specification)
        else:
            batch = as_batch(load_inputs(path), specification)
    except NotFoundError as error:
        raise NotFoundError(
            error.subject,
            found=error.found,
            expected="the inputs of the answer",
            remedy="name them where they lie now: --input FILE",
        ) from error
    found = inputs_digest(batch)
    if found != inputs["digest"]:
        raise VerificationError(
            f"inputs {path}",
            found=f"digest {found[:12]}",
            expected=f"{str(inputs['digest'])[:12]}, of the inputs that were answered",
            remedy="name the file with those inputs: --input FILE",
        )
    return Query(
        inputs=batch,
        owners=tuple(node_id(name) for name in saved.query["owners"]),
        min_confidence=float(saved.query["min_confidence"]),
    )


async def _specification(registry: VerifiedRegistry, digest: Digest) -> Specification:
    """Return the specification of a digest: the current one, or one of those before it."""
    statement = await registry.specification()
    while statement.digest != digest:
        if statement.value.version <= 1:
            raise NotFoundError(
                f"specification {digest[:12]}",
                found="none of this swarm's",
                expected="the answer's own swarm",
            )
        statement = await registry.specification(statement.value.version - 1)
    return statement.value


async def _gate(registry: VerifiedRegistry, saved: SavedAnswer, specification: Specification) -> ActiveGate:
    record = saved.record
    statement = await registry.gate(record.gate_version)
    if statement.digest != record.gate:
        raise VerificationError(
            f"gate {record.gate_version}",
            found=f"digest {statement.digest[:12]}",
            expected=f"digest {record.gate[:12]}, which answered",
            remedy="the answer is of another swarm, or of one that was restored from before it",
        )
    value = statement.value
    try:
        arrays = await registry.gate_arrays(value)
    except NotFoundError as error:
        raise NotFoundError(
            f"gate {value.version}",
            found=f"its statement only: {error.subject} is gone",
            expected="its arrays, which are kept for the newest 50 versions",
        ) from error
    prototypes, analytic = gates_of(
        arrays,
        value.leaves,
        value.branches,
        class_names=value.class_names,
        trunk=specification.trunk if value.kind == "analytic" else None,
        temperature=prototype_temperature(value),
    )
    return ActiveGate(statement=statement, prototypes=prototypes, analytic=analytic)


async def _head(registry: VerifiedRegistry, digest: str) -> KnownHead | None:
    if not digest:
        return None
    statement = await registry.manifest(digest)
    return KnownHead(manifest=statement.value, digest=statement.digest)


async def _expert(
    registry: VerifiedRegistry,
    said: Said,
    leaves: Heads,
    specification: Specification,
    import_paths: Sequence[str],
) -> LoadedExpert:
    head = leaves[said.speaker] if said.speaker < len(leaves) else None
    if head is None or head.digest != said.manifest:
        raise VerificationError(
            f"manifest {said.manifest[:12]}",
            found="not that of its leaf",
            expected="one of the record's heads",
        )
    manifest = head.manifest
    if manifest.share == "serve-only":
        raise NotAuthorisedError(
            f"{manifest.expert}@{manifest.version}",
            found="share serve-only",
            expected="share borrow or public: nobody but its owner can compute it again",
        )
    await registry.blobs(manifest)
    return LoadedExpert.load(
        manifest, registry.cache.open_verified, specification, import_paths, device=best_device()
    )


async def _trunk(
    registry: VerifiedRegistry, specification: Specification, import_paths: Sequence[str]
) -> Trunk:
    reference = specification.trunk
    await registry.fetch((*reference.weights.tensors, *reference.probe.tensors))
    return Trunk.load(
        reference,
        registry.cache.open_verified,
        scale=specification.scale,
        offset=specification.offset,
        import_paths=import_paths,
    )


def _reply(expert: LoadedExpert, said: Said, inputs: NDArray[np.generic], form: ExpertForm) -> Reply:
    rows = np.array(said.rows, dtype=np.int64)

    def values(tile: NDArray[np.generic]) -> NDArray[np.float32]:
        return expert.values(tile, form)

    asked = Asked(
        served_by=said.served_by,
        class_names=expert.class_names,
        values=in_tiles(values, inputs[rows]),
        flops_per_query=0.0,
    )
    return Reply(leaf=said.leaf, rows=rows, answer=asked, speaker=said.speaker)
