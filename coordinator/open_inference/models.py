"""What can be asked by name: the swarm itself, and each expert. Pure."""

import json
from collections.abc import Sequence

from swarm.answering.known_head import KnownHead
from swarm.answering.query_checks import rows_that_fit
from swarm.domain.errors import InvalidInputError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT
from swarm.domain.open_inference import Datatype, ModelDescription, TensorMetadata
from swarm.domain.specification import Specification

SWARM_MODEL = "swarm"
INPUT, PROBABILITIES, LABEL = "inputs", "probabilities", "label"
CONFIDENCE, DISTANCE = "confidence", "out_of_distribution"
_DATATYPES: dict[str, Datatype] = {"float32": "FP32", "uint8": "UINT8"}
_LONGEST_VERSION = 18


def version_number(text: str, model: str) -> int:
    """Return a version as it is asked for, 0 for the newest; InvalidInputError for what is no number."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > _LONGEST_VERSION or int(text) == 0:
        raise InvalidInputError(
            f"version of model {model[:60]}", found=repr(text[:40]), expected="a number from 1, or none"
        )
    return int(text)


def input_of(specification: Specification) -> TensorMetadata:
    """Return the one input that every model has."""
    datatype = _DATATYPES[specification.input_dtype]
    return TensorMetadata(name=INPUT, datatype=datatype, shape=(-1, *specification.input_shape))


def swarm_model(
    specification: Specification, gate: GateStatement | None, version: int, versions: Sequence[int]
) -> ModelDescription:
    """Return the swarm as a model by `gate`, its versions those of gates that are answered; `version` 0
    before the first gate."""
    names = gate.class_names if gate is not None else specification.class_names
    facts = {"swarm": specification.swarm, "specification": str(specification.version)}
    if gate is not None:
        facts |= {"combination": gate.combination().label, "leaves": str(len(gate.leaves))}
    return _model(
        SWARM_MODEL,
        str(version) if version else "",
        tuple(map(str, versions)),
        "swarm_routed",
        specification,
        names,
        facts,
        by_gate=True,
    )


def expert_model(
    specification: Specification, head: KnownHead, versions: Sequence[KnownHead]
) -> ModelDescription:
    """Return one version of an expert as a model; `versions` are all of it that can be asked."""
    manifest = head.manifest
    return _model(
        manifest.expert,
        str(manifest.version),
        tuple(str(each.manifest.version) for each in versions),
        "swarm_expert",
        specification,
        manifest.class_names,
        {
            "swarm": specification.swarm,
            "owner": manifest.owner,
            "leaf": manifest.leaf,
            "manifest": head.digest,
            "share": manifest.share,
        },
        by_gate=manifest.expert == ROOT_EXPERT,
    )


def _model(
    name: str,
    version: str,
    versions: tuple[str, ...],
    platform: str,
    specification: Specification,
    class_names: tuple[str, ...],
    facts: dict[str, str],
    *,
    by_gate: bool,
) -> ModelDescription:
    """`by_gate`: a gate reads its inputs, and says how far out each row lies."""
    each_row = (CONFIDENCE, DISTANCE) if by_gate else (CONFIDENCE,)
    return ModelDescription(
        name=name,
        version=version,
        versions=versions,
        platform=platform,
        input=input_of(specification),
        outputs=(
            TensorMetadata(name=PROBABILITIES, datatype="FP32", shape=(-1, len(class_names))),
            TensorMetadata(name=LABEL, datatype="BYTES", shape=(-1,)),
            *(TensorMetadata(name=each, datatype="FP32", shape=(-1,)) for each in each_row),
        ),
        class_names=class_names,
        most_rows=rows_that_fit(class_names),
        facts={**facts, "class_names": json.dumps(class_names, ensure_ascii=False)},
    )
