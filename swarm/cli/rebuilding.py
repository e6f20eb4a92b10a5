"""`swarm registry rebuild`: get back what a registry lost of its store or blobs, and say what is missing."""

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, progress, run_async, table

if TYPE_CHECKING:
    from swarm.domain.membership import SwarmStatus
    from swarm.domain.rebuild import RebuildReport

LOOK_AGAIN_S = 0.5
MOST_LISTED = 40


def rebuild(
    wait_s: Annotated[
        float, typer.Option("--wait", help="So many seconds are owners waited for that are alive.", min=0)
    ] = 60.0,
    home: Home = None,
    json: Json = False,
) -> None:
    """Bring back heads, manifests and blobs: from the registry's journal, the coordinator and every node.

    Safe at any time: what is there is not changed. Owners that are away bring theirs when they come again.
    """
    from swarm.cli import places

    async def work() -> None:
        place = places.operator_place(home)
        async with places.registry(place) as registry, places.coordinator(place) as coordinator:
            report = await registry.rebuild(begin=True)
            deadline = time.monotonic() + wait_s
            status = await coordinator.status()
            while waiting := _not_come(report, status, alive=True):
                if time.monotonic() > deadline:
                    break
                progress(f"waiting for {', '.join(waiting)}")
                await asyncio.sleep(LOOK_AGAIN_S)
                report, status = await registry.rebuild(begin=False), await coordinator.status()
            absent = _not_come(report, status, alive=False)
        emit(
            "registry-rebuild",
            {"report": report, "not_come": absent},
            as_json=json,
            text=describe(report, absent),
        )

    run_async(work())


def _not_come(report: "RebuildReport", status: "SwarmStatus", *, alive: bool) -> list[str]:
    """Return the nodes that have not offered anything yet: all, or of those that are alive."""
    came = {each.owner for each in report.came}
    expected = {node.id for node in status.nodes if (node.alive or not alive) and not node.revoked}
    return sorted({*expected, "coordinator"} - came)


def describe(report: "RebuildReport", absent: list[str]) -> str:
    """Return how a rebuild stands, as people read it."""
    lines = [
        f"{report.heads} heads, {report.manifests} manifests, {report.blobs} blobs; "
        f"{len(report.from_journal)} versions came from the registry's own journal"
    ]
    if report.came:
        rows = [(each.owner, str(each.offered), str(each.restored)) for each in report.came]
        lines.append(table(("owner", "offered", "had been lost"), rows))
    lines += [f"refused of {each.owner}: {reason}" for each in report.came for reason in each.refused]
    lines += [f"conflict: {each}" for each in report.conflicts]
    if absent:
        lines.append(f"not come yet: {', '.join(absent)}")
    if report.missing:
        pieces = report.missing[:MOST_LISTED]
        rows = [(each.owner, each.version, each.what[:17]) for each in pieces]
        lines += [f"{len(report.missing)} missing:", table(("owner", "version", "what"), rows)]
    else:
        lines.append("nothing that is known of is missing")
    return "\n".join(lines)
