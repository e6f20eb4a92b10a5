"""`swarm status`, `swarm events`, `swarm doctor`: how the swarm is, what happened, what to repair."""

import asyncio
import json as json_lines
import re
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import bytes_text, emit, plain, printable, progress, run_async, say, table

if TYPE_CHECKING:
    from pathlib import Path

    from swarm.domain.agent import AgentState, ExpertMemory
    from swarm.domain.membership import Event, SwarmStatus

MOST_NAMED = 10
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
_EVENT_ID = re.compile(r"[0-9]{1,18}(?:-[0-9]{0,18})?")


def register(app: typer.Typer) -> None:
    app.command("status")(status)
    app.command("events")(events)
    app.command("doctor")(doctor)


def status(home: Home = None, json: Json = False) -> None:
    """Show the swarm as its coordinator sees it, and on a node its own agent."""
    from swarm.cli.places import agent, coordinator, find_place
    from swarm.domain.errors import NotReadyError

    place = find_place(home)

    async def work() -> None:
        own: AgentState | None = None
        beside = ""
        if place.is_node and place.identity().role == "node":
            try:
                async with agent(place, start=False) as client:
                    own = await client.state()
                beside = f"{describe_agent(own)}\n\n"
            except NotReadyError as error:
                beside = f"this node's agent does not run; start it: {error.remedy}\n\n"
        async with coordinator(place) as client:
            seen = await client.status()
        text = f"{beside}{describe_status(seen)}{_where_to_ask(place.root)}"
        emit("status", {"swarm": seen, "agent": own}, as_json=json, text=text)

    run_async(work())


def _where_to_ask(root: "Path") -> str:
    """Return a line with the ports of the coordinator that runs from this home, empty where none does."""
    from swarm.cli.processes import listens_on, noted_ports
    from swarm.config import SwarmHome

    run = SwarmHome(root).run
    if not listens_on(run, "coordinator"):
        return ""
    names = {"--port": "gRPC", "--http-port": "HTTP", "--loopback-port": "gRPC without TLS"}
    ports = noted_ports(run, "coordinator")
    return f"\nasked on ports: {', '.join(f'{names[flag]} {ports[flag]}' for flag in names if flag in ports)}"


def describe_status(seen: "SwarmStatus") -> str:
    """Return the coordinator's view for people."""
    from swarm.cli.clock import ago, span

    rows = [
        (
            node.id,
            "revoked" if node.revoked else "live" if node.alive else "gone",
            node.activity or "-",
            ", ".join(node.experts) or "-",
            ago(node.last_seen),
            bytes_text(node.socket_bytes.sent),
            node.advertise or "stream only",
        )
        for node in seen.nodes
    ]
    live = sum(node.alive for node in seen.nodes)
    about = (
        f"swarm {seen.swarm}: {live} of {len(seen.nodes)} nodes live, gate version {seen.gate_version},"
        f" specification {seen.specification_version} with {len(seen.class_names)} classes"
        f" ({', '.join(seen.class_names[:20])})",
        f"redis {seen.redis} ({seen.durability}); coordinator up {span(seen.server_time - seen.started_at)},"
        f" certificate {seen.certificate_days:.1f} days",
    )
    header = ("node", "state", "activity", "experts", "seen", "sent", "reached by")
    lines = [*map(printable, about), table(header, rows)]
    if seen.leaves_without_owner:
        by = {leaf: f" (answered by {node})" for leaf, node in seen.stand_ins.items()}
        away = ", ".join(f"{leaf}{by.get(leaf, '')}" for leaf in seen.leaves_without_owner)
        lines.append(printable(f"leaves without a live owner: {away}"))
    if seen.under_replicated:
        few = sorted(seen.under_replicated.items(), key=lambda each: (each[1], each[0]))
        named = ", ".join(f"{leaf} ({count})" for leaf, count in few[:MOST_NAMED])
        more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
        lines.append(printable(f"leaves loaded on fewer than {seen.replicas} nodes: {named}{more}"))
    return "\n".join(lines)


def describe_agent(own: "AgentState") -> str:
    """Return a node's view of itself for people."""
    link = "connected" if own.connected else "NOT connected"
    lines = (
        f"node {own.node} of {own.swarm}: {link}, {own.activity or 'idle'}, gate version {own.gate_version},"
        f" {own.outbox} in the outbox",
        f"experts {', '.join(own.experts) or 'none'}; certificate {own.certificate_days:.2f} days;"
        f" sent {bytes_text(own.socket_bytes.sent)}; disk {bytes_text(own.disk_free_bytes)} free",
        *((_memory_line(own.memory),) if own.memory.budget_bytes else ()),
        *((f"the outbox waits: {own.outbox_trouble}",) if own.outbox and own.outbox_trouble else ()),
        *((f"stream in trouble: {own.trouble}",) if own.trouble else ()),
    )
    return "\n".join(map(printable, lines))


def _memory_line(memory: "ExpertMemory") -> str:
    experts = f"{memory.loaded} {'expert' if memory.loaded == 1 else 'experts'} in memory"
    return (
        f"{experts}, {bytes_text(memory.size_bytes)} of at most {bytes_text(memory.budget_bytes)};"
        f" asked for {memory.hits + memory.loads} times, {memory.loads} times loaded"
    )


def events(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they happen, until Ctrl-C.")
    ] = False,
    after: Annotated[str, typer.Option(help="Only those after this event id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    home: Home = None,
    json: Json = False,
) -> None:
    """Show what happened, the newest last. With --follow --json: one JSON object a line."""
    from swarm.cli.places import coordinator, find_place
    from swarm.domain.errors import UnreachableError, UsageError

    if after and _EVENT_ID.fullmatch(after) is None:
        raise UsageError(
            "--after",
            found=repr(after[:40]),
            expected="an event's id, as 1700000000000-0",
            remedy="swarm events --json shows the ids",
        )

    def show(event: "Event") -> None:
        told = json_lines.dumps({"schema": "swarm.event/1", **plain(event_facts(event))})
        say(told if json else describe_event(event))

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            found = [event async for event in client.events(after=after, limit=0)][-limit:]
            if not follow:
                facts = {"events": [event_facts(event) for event in found]}
                text = "\n".join(map(describe_event, found)) or "no events"
                emit("events", facts, as_json=json, text=text)
                return
            for event in found:
                show(event)
            last = found[-1].id if found else after
            pause_s = FIRST_PAUSE_S
            while True:
                try:
                    async for event in client.events(after=last, follow=True, limit=0):
                        last, pause_s = event.id, FIRST_PAUSE_S
                        show(event)
                except UnreachableError as error:
                    progress(f"the coordinator is away, asked again in {pause_s:.0f} s: {error.found}")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    run_async(work())


def event_facts(event: "Event") -> dict[str, object]:
    """Return an event as JSON shows it."""
    return {"id": event.id, "kind": event.kind, "at": event.at, "fields": dict(event.fields)}


def describe_event(event: "Event") -> str:
    """Return an event as one line."""
    from swarm.cli.clock import stamp

    facts = " ".join(f"{name}={value}" for name, value in event.fields)
    return printable(f"{stamp(event.at)}  {event.kind:<22} {facts}")


def doctor(home: Home = None, json: Json = False) -> None:
    """Check processes, Redis, certificates, clocks, disk, gate and leaves; exit code 5 if one is bad."""
    from swarm.cli.checks import examine
    from swarm.cli.places import find_place

    checks = run_async(examine(find_place(home)))
    rows = [
        ("ok" if check.ok else "PROBLEM", check.name, check.found, "" if check.ok else check.remedy)
        for check in checks
    ]
    healthy = all(check.ok for check in checks)
    text = table(("", "check", "found", "try"), rows)
    emit("doctor", {"healthy": healthy, "checks": checks}, as_json=json, text=text)
    if not healthy:
        raise typer.Exit(5)
