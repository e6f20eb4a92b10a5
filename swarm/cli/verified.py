"""The registry with nothing taken on trust, as the command opens it; weights as a file."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.cli import places
from swarm.cli.passing_cache import passing_cache
from swarm.cli.places import Place
from swarm.config import NodeHome, SwarmHome
from swarm.domain.errors import UsageError
from swarm.heap import suit_transfers
from swarm.modules.blobs import BlobFiles
from swarm.rpc.peers import LivingPeers
from swarm.rpc.verified import VerifiedRegistry

if TYPE_CHECKING:
    from swarm.domain.manifests import Manifest


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
