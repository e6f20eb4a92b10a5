"""Federated runs: orders, progress and the parts of messages."""

from swarm.domain.errors import InvalidInputError
from swarm.domain.federation import FederationOrder, FederationPart, FederationStep
from swarm.rpc.convert.scalars import finite, idempotency_key
from swarm.rpc.convert.tensors import set_tensor, tensor_from_pb
from swarm.rpc.pb import federation_pb2

_MAX_OPTIONS = 32


def federation_order_to_pb(value: FederationOrder) -> federation_pb2.RunFederationRequest:
    return federation_pb2.RunFederationRequest(
        app=value.app, options=dict(value.options), idempotency_key=value.idempotency_key
    )


def federation_order_from_pb(message: federation_pb2.RunFederationRequest) -> FederationOrder:
    """Return the order; its app and options are checked by whoever carries it out."""
    if len(message.options) > _MAX_OPTIONS:
        raise InvalidInputError(
            "options", found=f"{len(message.options)} of them", expected=f"at most {_MAX_OPTIONS}"
        )
    return FederationOrder(
        app=message.app,
        options=dict(message.options),
        idempotency_key=idempotency_key(message.idempotency_key),
    )


def federation_step_to_pb(value: FederationStep) -> federation_pb2.FederationProgress:
    message = federation_pb2.FederationProgress(
        stage=value.stage,
        message=value.message,
        fraction=value.fraction,
        figures=dict(value.figures),
        array_names=list(value.arrays),
    )
    for name, array in value.arrays.items():
        set_tensor(message.arrays.add(), array, f"result {name}")
    return message


def federation_step_from_pb(message: federation_pb2.FederationProgress) -> FederationStep:
    names = tuple(message.array_names)
    if len(set(names)) != len(message.arrays) or len(names) != len(message.arrays):
        raise InvalidInputError(
            "result", found=f"{len(message.arrays)} arrays, {len(names)} names", expected="one name for each"
        )
    return FederationStep(
        stage=message.stage,
        message=message.message,
        fraction=finite(message.fraction, "fraction"),
        figures={name: finite(value, name) for name, value in message.figures.items()},
        arrays={
            name: tensor_from_pb(array, f"result {name}")
            for name, array in zip(names, message.arrays, strict=True)
        },
    )


def federation_part_to_pb(value: FederationPart) -> federation_pb2.FederationPart:
    return federation_pb2.FederationPart(
        run=value.run,
        message=value.message,
        part=value.part,
        parts=value.parts,
        data=value.data,
        app=value.app,
    )


def federation_part_from_pb(message: federation_pb2.FederationPart) -> FederationPart:
    """Return the part; InvalidInputError for one that is too large, out of range or of no known app."""
    return FederationPart(
        run=message.run,
        message=message.message,
        part=message.part,
        parts=message.parts,
        data=message.data,
        app=message.app,
    )
