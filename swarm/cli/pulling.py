"""`swarm expert pull`: bring an expert's weights here, verified."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Delta, Home, Json
from swarm.cli.output import bytes_text, emit, progress, run_async
from swarm.cli.references import VersionName, reference

if TYPE_CHECKING:
    from swarm.rpc.verified import Fetched


def pull(
    expert_id: VersionName,
    output: Annotated[
        Path | None, typer.Option(help="Write the weights as a .safetensors file as well.", metavar="FILE")
    ] = None,
    delta: Delta = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Fetch and verify an expert's modules into this place's cache.

    They come from the registry and from nodes with a listener at once; what broke off goes on.
    """
    from swarm.cli.destinations import check_destination
    from swarm.cli.places import find_place
    from swarm.cli.progress_bar import transfer_bar
    from swarm.cli.verified import export_safetensors, standing_version, takes_deltas, verified_registry
    from swarm.domain.errors import NotAuthorisedError

    place, wanted = find_place(home), reference(expert_id)
    if output is not None:
        check_destination(output, "--output")
    deltas = takes_deltas(place, delta)

    async def work() -> None:
        async with verified_registry(place, with_peers=True, deltas=deltas) as registry:
            statement = await standing_version(place, registry, wanted)
            manifest = statement.value
            if manifest.share == "serve-only" and manifest.owner != place.identity().id:
                raise NotAuthorisedError(
                    f"{manifest.expert}@{manifest.version}",
                    found="share serve-only",
                    expected="share borrow or public",
                    remedy=f"ask it through the swarm: swarm predict INPUT --owner {manifest.owner}",
                )
            with transfer_bar(expert_id, as_json=json) as bar:
                fetched = await registry.blobs(manifest, bar)
            for holder, reason in registry.dropped.items():
                progress(f"{holder} was asked no more: {reason}")
            size = sum(registry.cache.size(blob) for blob in set(manifest.blobs()))
            if output is not None:
                export_safetensors(manifest, registry.cache, output)
        where = f"; weights in {output}" if output else ""
        text = (
            f"{manifest.expert}@{manifest.version}: {bytes_text(size)} verified; {came(fetched, size)}{where}"
        )
        facts = {"expert": manifest.expert, "version": manifest.version, "digest": statement.digest}
        facts |= {"output": str(output or ""), "fetched": fetched}
        emit("expert-pull", facts, as_json=json, text=text)

    run_async(work())


def came(fetched: "Fetched", size_bytes: int) -> str:
    """Return how much of a version's bytes came, and how, for people."""
    if not fetched.came_bytes:
        return "all of it was here already"
    told = f"{bytes_text(fetched.came_bytes)} came"
    if fetched.delta_bytes:
        told += (
            f", {bytes_text(fetched.delta_bytes)} of it as deltas of {bytes_text(fetched.delta_sent_bytes)}"
        )
    return told if fetched.came_bytes >= size_bytes else f"{told}, the rest was here already"
