"""The table of methods says what `protos/` says, every method is served, the generated code is current."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pool

from swarm.domain.members import Role
from swarm.rpc import generate
from swarm.rpc import methods as m
from swarm.rpc.node_stream import NodeStreamServicer
from swarm.rpc.server import Service
from swarm.rpc.servicers import (
    agent_service,
    expert_service,
    federation_client_service,
    federation_service,
    gate_service,
    grower_service,
    growth_service,
    holder_service,
    inference_service,
    membership_service,
    registry_service,
)

NOBODY = object()
SERVICES: list[Service] = [
    agent_service(NOBODY),  # type: ignore[arg-type]
    expert_service(NOBODY),  # type: ignore[arg-type]
    federation_client_service(NOBODY),  # type: ignore[arg-type]
    federation_service(NOBODY),  # type: ignore[arg-type]
    gate_service(NOBODY),  # type: ignore[arg-type]
    grower_service(NOBODY),  # type: ignore[arg-type]
    growth_service(NOBODY),  # type: ignore[arg-type]
    holder_service(NOBODY),  # type: ignore[arg-type]
    inference_service(NOBODY),  # type: ignore[arg-type]
    membership_service(NOBODY),  # type: ignore[arg-type]
    registry_service(NOBODY),  # type: ignore[arg-type]
    NodeStreamServicer(NOBODY).service(),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("method", m.METHODS, ids=lambda method: method.path)
def test_the_table_agrees_with_the_protos(method: m.AnyMethod) -> None:
    service = descriptor_pool.Default().FindServiceByName(method.full_service)
    declared = service.methods_by_name[method.name]
    raw = "swarm.v1.RawChunk"
    assert declared.input_type.full_name == (raw if method.request is bytes else _name(method.request))
    assert declared.output_type.full_name == (raw if method.reply is bytes else _name(method.reply))
    assert (declared.client_streaming, declared.server_streaming) == (method.streams_in, method.streams_out)


def test_every_declared_method_is_in_the_table_and_served() -> None:
    pool = descriptor_pool.Default()
    declared = {
        f"/{service.full_name}/{method.name}"
        for service in (pool.FindServiceByName(each.full_service) for each in m.METHODS)
        for method in service.methods
    }
    served = {method.path for service in SERVICES for method in service.behaviours}
    assert declared == {method.path for method in m.METHODS} == served


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        (m.CREATE_TOKEN, {"operator"}),
        (m.REVOKE_NODE, {"operator"}),
        (m.ROLLBACK, {"operator"}),
        (m.COMMIT, {"node", "coordinator"}),
        (m.RUN_FEDERATION, {"operator"}),
        (m.FEDERATION_DELIVER, {"coordinator"}),
        (m.MAKE_PROFILE, {"node", "operator", "client"}),
        (m.CONNECT, {"node"}),
        (m.CONTRIBUTE, {"node"}),
        (m.GET_CONTRIBUTION, {"node"}),
        (m.TRY_GATE, {"coordinator"}),
        (m.SURVEY, {"coordinator"}),
        (m.CARRY_OUT, {"coordinator"}),
        (m.PROPOSE, {"node", "operator"}),
        (m.CANCEL_GROWTH, {"node", "operator"}),
        (m.REPORT_GROWTH, {"node"}),
        (m.GROWTH_POLICY, {"operator"}),
        (m.STOP, set()),
    ],
)
def test_what_changes_the_swarm_is_for_few(method: m.AnyMethod, allowed: set[Role]) -> None:
    assert m.ROLES[method.path] == allowed


def test_the_generated_code_is_up_to_date_and_a_change_is_noticed(tmp_path: Path) -> None:
    made = generate.generate(generate.PROTOS)
    assert generate.stale(made, generate.PACKAGE) == []
    assert generate.stale({**made, "new_pb2.py": ""}, generate.PACKAGE) == ["new_pb2.py"]
    (tmp_path / "old_pb2.py").write_text("")
    assert "old_pb2.py" in generate.stale(made, tmp_path)


def _name(message: type) -> str:
    return str(message.DESCRIPTOR.full_name)  # type: ignore[attr-defined]
