"""`swarm registry rebuild`: get back what a registry lost of its store or blobs, and say what is missing."""

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, progress, run_async, table

if TYPE_CHECKING:
    from swarm.domain.membership import SwarmStatus
    from swarm.domain.rebuild import RebuildReport
    from swarm.rpc.clients import CoordinatorClient

LOOK_AGAIN_S = 0.5
MOST_LISTED = 40


def rebuild(
    wait_s: Annotated[
        float,
        typer.Option(
            "--wait", help="So many seconds are owners waited for that are alive or bring things.", min=0
        ),
    ] = 60.0,
    home: Home = None,
    json: Json = False,
) -> None:
    """Bring back heads, manifests and blobs: from the registry's journal, the coordinator and every node.

    Safe at any time: what is there is not changed. Owners that are away bring theirs when they come again.
    Exit code 5 while anything is missing, or somebody who is alive has not come.
    """
    from swarm.cli import places

    async def work() -> bool:
        place = places.operator_place(home)
        async with places.registry(place) as registry, places.coordinator(place) as coordinator:
            report = await registry.rebuild(begin=True)
            deadline = time.monotonic() + wait_s
            told, status = "", await _status(coordinator)
            while (waiting := _awaited(report, status)) and time.monotonic() < deadline:
                if waiting != told:
                    progress(waiting)
                    told = waiting
                await asyncio.sleep(LOOK_AGAIN_S)
                report, status = await registry.rebuild(begin=False), await _status(coordinator)
            absent = sorted(_members(status, alive=False) - _came(report))
        emit(
            "registry-rebuild",
            {"report": report, "not_come": absent},
            as_json=json,
            text=describe(report, absent),
        )
        return not report.missing and _members(status, alive=True) <= _came(report)

    if not run_async(work()):
        raise typer.Exit(5)


async def _status(coordinator: "CoordinatorClient") -> "SwarmStatus | None":
    """Return who is there; None while the coordinator does not answer."""
    from swarm.domain.errors import UnreachableError

    try:
        return await coordinator.status()
    except UnreachableError:
        return None


def _members(status: "SwarmStatus | None", *, alive: bool) -> set[str]:
    """Return who has something to bring: the coordinator, and all nodes or those that are alive."""
    nodes = status.nodes if status is not None else ()
    return {"coordinator", *(node.id for node in nodes if (node.alive or not alive) and not node.revoked)}


def _came(report: "RebuildReport") -> set[str]:
    return {each.owner for each in report.came}


def _awaited(report: "RebuildReport", status: "SwarmStatus | None") -> str:
    """Return who is waited for, and for what, of those that are alive; empty when they have brought all."""
    alive = _members(status, alive=True)
    lacking = Counter[str](each.owner for each in report.missing if each.owner in alive)
    found = [
        f"{owner} ({lacking[owner]} missing)" if lacking[owner] else owner
        for owner in sorted((alive - _came(report)) | lacking.keys())
    ]
    return f"waiting for {', '.join(found)}" if found else ""


def describe(report: "RebuildReport", absent: list[str]) -> str:
    """Return how a rebuild stands, as people read it. Each owner's versions: put back from the registry's
    journal, offered, taken because the registry lacked them; and the blobs that it sent."""
    from swarm.domain.ids import ExpertId, owner_of
    from swarm.domain.rebuild import OwnerCame

    lines = [f"{report.heads} heads, {report.manifests} manifests, {report.blobs} blobs"]
    own = Counter(owner_of(ExpertId(version.partition("@")[0])) for version in report.from_journal)
    came = {each.owner: each for each in report.came}
    if own or came:
        rows = []
        for owner in sorted({*own, *came}):
            offered = came.get(owner, OwnerCame(owner=owner, offered=0, restored=0))
            counts = (own[owner], offered.offered, offered.restored, offered.blobs)
            rows.append((owner, *map(str, counts)))
        lines.append(table(("owner", "from journal", "offered", "taken", "blobs"), rows))
    lines += [f"refused of {each.owner}: {reason}" for each in report.came for reason in each.refused]
    lines += [f"conflict: {each}" for each in report.conflicts]
    if report.journal_damaged:
        lines.append(f"{report.journal_damaged} lines of the registry's journal cannot be read")
    if absent:
        lines.append(f"not come yet: {', '.join(absent)}")
    if report.missing:
        pieces = report.missing[:MOST_LISTED]
        rows = [(each.owner, each.version, each.what[:17]) for each in pieces]
        lines += [f"{len(report.missing)} missing:", table(("owner", "version", "what"), rows)]
    else:
        lines.append("nothing that is known of is missing")
    return "\n".join(lines)
