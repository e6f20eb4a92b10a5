"""The services over their ports: a message in, checked and converted; the port's answer out.

Errors are left to the interceptor. The node stream is in `swarm.rpc.node_stream`.
"""

from swarm.rpc.servicers.coordinator import gate_service, inference_service, membership_service
from swarm.rpc.servicers.federation import federation_client_service, federation_service
from swarm.rpc.servicers.growth import grower_service, growth_service
from swarm.rpc.servicers.holder import holder_service
from swarm.rpc.servicers.node import agent_service, expert_service
from swarm.rpc.servicers.registry import registry_service

__all__ = [
    "agent_service",
    "expert_service",
    "federation_client_service",
    "federation_service",
    "gate_service",
    "grower_service",
    "growth_service",
    "holder_service",
    "inference_service",
    "membership_service",
    "registry_service",
]
