"""The wire: generated messages, conversions, servicers, typed clients. Domain types in, domain types out."""

from swarm.grpc_core import import_grpc

import_grpc("NONE")
