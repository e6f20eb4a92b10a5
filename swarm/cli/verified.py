"""The registry with nothing taken on trust, as the command opens it; weights as a file."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.cli import places
from swarm.cli.clock import stamp
from swarm.cli.output import progress
from swarm.cli.passing_cache import passing_cache
from swarm.cli.places import Place
from swarm.cli.references import Reference
from swarm.config import NodeHome, SwarmHome
from swarm.domain.errors import NotAuthorisedError, SwarmError, UnreachableError, UsageError
from swarm.domain.ids import NodeId
from swarm.heap import suit_transfers
from swarm.modules.blobs import BlobFiles
from swarm.rpc.peers import LivingPeers
from swarm.rpc.verified import VerifiedRegistry

if TYPE_CHECKING:
    from swarm.domain.manifests import Manifest
    from swarm.trust.statements import Statement


@asynccontextmanager
async def verified_registry(
    place: Place, *, with_peers: bool = False, deltas: bool = False
) -> AsyncIterator[VerifiedRegistry]:
    """Open the registry for a place. A node keeps what it fetches in its cache; an operator only what came of
    weights until they are whole and used.

    `with_peers`, for weights: nodes that live and have a listener may give blobs as well. `deltas`: blobs
    come as deltas to those of the versions that they came from, where that pays.
    """
    suit_transfers()
    async with AsyncExitStack() as stack:
        if place.is_node:
            cache = BlobFiles(NodeHome(place.root).cache)
        elif with_peers:
            cache = stack.enter_context(passing_cache(SwarmHome(place.root).operator / "cache"))
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="swarm-cache-"))
            cache = BlobFiles(Path(scratch))
        client = await stack.enter_async_context(places.registry(place))
        coordinator = await stack.enter_async_context(places.coordinator(place))
        identity = place.identity()
        peers = LivingPeers(identity, identity.id, coordinator) if with_peers else None
        keyring = identity.keyring()
        yield VerifiedRegistry(client, coordinator, keyring, cache, find_peers=peers, deltas=deltas)


async def standing_version(
    place: Place, registry: VerifiedRegistry, wanted: Reference
) -> "Statement[Manifest]":
    """Return a version's manifest, signed by a member in good standing, by what the coordinator says now.

    When a statement was signed only its signer can say, so of a member that left or was revoked none counts,
    whenever it came. Raises NotAuthorisedError for such a version, and as `VerifiedRegistry.manifest` does.
    """
    statement = await registry.manifest(wanted.name, wanted.version)
    manifest = statement.value
    try:
        await registry.learn_revocations()
    except UnreachableError as error:
        progress(f"nobody says who was revoked by now: {error.subject} does not answer")
    if registry.keyring.is_revoked(manifest.owner):
        raise NotAuthorisedError(
            f"{manifest.expert}@{manifest.version}",
            found=f"an expert of {manifest.owner}, {await _how_it_went(place, manifest.owner)}",
            expected="one whose owner is a member",
            remedy="list what there is: swarm experts",
        )
    return statement


async def _how_it_went(place: Place, member: NodeId) -> str:
    """Return since when a member is revoked, and why, as far as events of that are kept."""
    since, why = "", ""
    with contextlib.suppress(SwarmError):
        async with places.coordinator(place) as client:
            async for event in client.events(limit=0):
                said = dict(event.fields)
                if said.get("node") != member or event.kind not in ("node.left", "node.revoked"):
                    continue
                since, why = f" on {stamp(event.at)}", said.get("reason", "") or why
    return f"who left or was revoked{since}{f': {why}' if why else ''}"


def takes_deltas(place: Place, flag: bool | None) -> bool:
    """Return the flag, else the node's setting. An operator keeps no versions that there could be deltas to:
    UsageError where it asks for them."""
    from node.config import NodeConfig

    if place.is_node:
        return flag if flag is not None else NodeConfig.load(place.root).delta
    if flag:
        raise UsageError(
            "--delta",
            found="a founder's home, which keeps no versions",
            expected="a node's home: deltas are to versions that are here",
            remedy="leave --delta out, or name a node's folder: --home DIR",
        )
    return False


def export_safetensors(manifest: "Manifest", cache: BlobFiles, output: Path) -> None:
    """Write an expert's verified weights to a .safetensors file, named as in the net's state dict."""
    from swarm.exchange.weights_file import write_weights

    about = {"expert": manifest.expert, "version": str(manifest.version), "net": manifest.net.factory}
    metadata = {**about, "class_names": ",".join(manifest.class_names)}
    write_weights(output, manifest.modules, cache.open_verified, metadata)
