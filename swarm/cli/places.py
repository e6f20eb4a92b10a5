"""Whose folder the command works in, and the way from there to coordinator, registry and agent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.config import NodeHome, SwarmHome, default_home, home_flag
from swarm.domain.errors import NotFoundError, NotReadyError, UnreachableError, UsageError
from swarm.domain.ids import NodeId

if TYPE_CHECKING:
    from swarm.rpc.clients import AgentClient, CoordinatorClient, RegistryClient
    from swarm.trust.identity import Identity


@dataclass(frozen=True, slots=True)
class Place:
    """A home with an identity: a founder's (the operator's identity) or a node's."""

    root: Path
    is_node: bool

    @property
    def identity_folder(self) -> Path:
        return NodeHome(self.root).identity if self.is_node else SwarmHome(self.root).operator / "identity"

    def identity(self) -> "Identity":
        """Return the identity that the command speaks with here."""
        from swarm.trust.identity import Identity

        return Identity.load(self.identity_folder)


def home_folder(home: Path | None) -> Path:
    """Return the folder that was asked for, absolute: the flag, else `$SWARM_HOME`, else the default."""
    return (home or default_home()).expanduser().resolve()


def find_place(home: Path | None) -> Place:
    """Return the place in home; NotFoundError where neither a founder's nor a node's identity is."""
    root = home_folder(home)
    if (NodeHome(root).identity / "identity.json").is_file():
        return Place(root, is_node=True)
    if (SwarmHome(root).operator / "identity" / "identity.json").is_file():
        return Place(root, is_node=False)
    raise NotFoundError(
        f"home {root}",
        found="neither a founder's nor a node's identity",
        expected="a folder made by swarm init or swarm join",
        remedy="swarm init, or swarm join TOKEN@HOST:PORT, or name the folder: --home DIR",
    )


def _whose(place: Place) -> str:
    role = place.identity().role if place.is_node else "founder"
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}'s"


def node_place(home: Path | None) -> Place:
    """Return the place if it is a node's; UsageError in a founder's home."""
    place = find_place(home)
    role = place.identity().role if place.is_node else "founder"
    if role != "node":
        raise UsageError(
            f"home {place.root}",
            found=f"{_whose(place)} home",
            expected="a node's home",
            remedy="swarm join TOKEN@HOST:PORT --home DIR first, then name that folder: --home DIR",
        )
    return place


def growth_place(home: Path | None) -> Place:
    """Return the place if proposals can be made in it: an operator's or a node's; UsageError elsewhere."""
    return _place_of(home, ("operator", "node"), "the founder's folder or a node's")


def operator_place(home: Path | None) -> Place:
    """Return the place if it is an operator's; UsageError elsewhere."""
    return _place_of(home, ("operator",), "the founder's folder")


def _place_of(home: Path | None, roles: tuple[str, ...], expected: str) -> Place:
    place = find_place(home)
    role = place.identity().role
    if role not in roles:
        raise UsageError(
            f"home {place.root}",
            found=f"a {role}'s home",
            expected=expected,
            remedy="name that folder: --home DIR",
        )
    return place


def founder_home(home: Path | None) -> SwarmHome:
    """Return the founder's home, or the part of it that a service was given; UsageError in a node's home."""
    root = home_folder(home)
    found = SwarmHome(root)
    if any((part / "identity").exists() for part in (found.registry, found.coordinator)):
        return found
    if not find_place(home).is_node:
        return found
    raise UsageError(
        f"home {root}",
        found=f"{_whose(find_place(home))} home",
        expected="the founder's home",
        remedy="name the folder that swarm init made: --home DIR",
    )


@asynccontextmanager
async def coordinator(place: Place) -> "AsyncIterator[CoordinatorClient]":
    """Open the coordinator's client with the place's identity. Where it has answered, the home keeps who else
    answers, for when it does not."""
    from swarm.cli.kept_members import keep_members
    from swarm.rpc.channel import open_channel
    from swarm.rpc.clients import CoordinatorClient
    from swarm.rpc.renewing import renew_if_due

    identity = place.identity()
    connection = open_channel(identity, identity.coordinator, "coordinator", NodeId("coordinator"))
    async with connection:
        client = CoordinatorClient(connection)
        await renew_if_due(identity, client)
        yield client
        await keep_members(identity, client)


@asynccontextmanager
async def own_routing(
    place: Place, unreachable: UnreachableError
) -> "AsyncIterator[tuple[CoordinatorClient, bytes]]":
    """Open the node's own process that answers like the coordinator, and give the specification's envelope.

    Raises `unreachable` where the place is no node's, or its agent does not run or does not listen.
    """
    from node.control import agent_socket
    from node.expert_server_config import ExpertServerConfig
    from swarm.rpc.channel import open_local
    from swarm.rpc.clients import CoordinatorClient

    home = NodeHome(place.root)
    configuration, specification = home.run / "experts.json", home.state / "specification.json"
    if not (place.is_node and configuration.is_file() and specification.is_file()):
        raise unreachable
    running = ExpertServerConfig.read(configuration)
    if not (running.listen and agent_socket(home)):
        raise unreachable
    async with open_local(Path(running.socket), "this node") as connection:
        yield CoordinatorClient(connection), specification.read_bytes()


@asynccontextmanager
async def registry(place: Place) -> "AsyncIterator[RegistryClient]":
    """Open the registry's client with the place's identity."""
    from swarm.rpc.channel import open_channel
    from swarm.rpc.clients import RegistryClient

    identity = place.identity()
    connection = open_channel(identity, identity.registry, "registry", NodeId("registry"))
    async with connection:
        yield RegistryClient(connection)


@asynccontextmanager
async def agent(place: Place, *, start: bool = True) -> "AsyncIterator[AgentClient]":
    """Open the client of the node's own agent, starting the agent where it does not run.

    With start: UnauthenticatedError where the node is no member any more. Without: NotReadyError where no
    agent runs.
    """
    from node.control import agent_socket, ensure_agent
    from swarm.cli.standing import check_standing
    from swarm.rpc.channel import open_local
    from swarm.rpc.clients import AgentClient

    home = NodeHome(place.root)
    if start:
        await check_standing(place)
    socket = await asyncio.to_thread(ensure_agent if start else agent_socket, home)
    if socket is None:
        raise NotReadyError(
            f"agent of {place.root}",
            found="none that runs",
            expected="a running agent",
            remedy=f"swarm node {home_flag(place.root)}",
        )
    async with open_local(socket) as connection:
        yield AgentClient(connection)
