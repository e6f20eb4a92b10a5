"""What `swarm doctor` looks at. Each check says what it found and, where that is bad, what to do."""

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swarm.cli.clock import span
from swarm.cli.output import bytes_text
from swarm.cli.processes import noted_ports, recorded_processes
from swarm.config import (
    COORDINATOR_HTTP_PORT,
    COORDINATOR_JOIN_PORT,
    COORDINATOR_PORT,
    REGISTRY_PORT,
    SwarmHome,
    home_flag,
)
from swarm.domain.errors import SwarmError

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.agent import AgentState
    from swarm.domain.gates import GateStatement
    from swarm.domain.membership import RegistryHealth, SwarmStatus
    from swarm.trust.identity import Identity

LEAST_DISK_BYTES = 500_000_000
LARGEST_SKEW_S = 30.0
_REDIS_AGAIN = (
    "start Redis again; if its AOF is damaged: redis-check-aof --fix first; if its folder was lost it has"
    " another address: restart coordinator and registry too"
)
LEAST_CERTIFICATE_DAYS = {"node": 0.1, "service": 1.0, "operator": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at: `remedy` is the next command where it is not ok."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def failed(name: str, error: SwarmError, remedy: str) -> Check:
    """Return a check that failed because its subject did not answer."""
    facts = error.found or error.subject
    own = "" if "swarm doctor" in error.remedy else error.remedy
    return Check(name=name, ok=False, found=facts, remedy=own or remedy)


def coordinator_checks(seen: "SwarmStatus", now: float) -> list[Check]:
    """Return what the coordinator's status tells."""
    dead = [node.id for node in seen.nodes if not node.alive and not node.revoked]
    live = sum(node.alive for node in seen.nodes)
    skew = abs(seen.server_time - now)
    return [
        Check(name="coordinator", ok=True, found=f"answers, up {span(seen.server_time - seen.started_at)}"),
        Check(
            name="redis",
            ok=seen.redis == "ok",
            found=f"{seen.redis}, {seen.durability}",
            remedy=_REDIS_AGAIN,
        ),
        certificate_check("coordinator's certificate", seen.certificate_days, "service"),
        Check(
            name="clocks",
            ok=skew <= LARGEST_SKEW_S,
            found=f"{skew:.1f} s apart from the coordinator's",
            remedy="set this machine's clock (NTP): certificates and leases depend on it",
        ),
        Check(
            name="nodes",
            ok=not dead,
            found=f"{live} of {len(seen.nodes)} live" + (f"; gone: {', '.join(dead)}" if dead else ""),
            remedy="on that machine: swarm node (its experts answer again at once)",
        ),
        Check(
            name="gate",
            ok=seen.gate_version > 0,
            found=f"version {seen.gate_version}" if seen.gate_version else "none yet",
            remedy="on a node: swarm train DATA",
        ),
        Check(
            name="leaves",
            ok=not seen.unanswered_leaves,
            found=_leaves(seen),
            remedy="start those nodes, or let another hold their modules: swarm expert pull ID",
        ),
    ]


def _leaves(seen: "SwarmStatus") -> str:
    alone = [f"{', '.join(seen.unanswered_leaves)} without a live owner"] if seen.unanswered_leaves else []
    others = [f"{node} answers for {leaf}, whose owner is away" for leaf, node in seen.stand_ins.items()]
    return "; ".join([*alone, *others]) or "every leaf has a live owner"


def owners_check(seen: "SwarmStatus", gate: "GateStatement") -> Check:
    """Return whether every live node that has published experts has a leaf in the gate."""
    present = {leaf.owner for leaf in gate.leaves}
    outside = [node.id for node in seen.nodes if node.alive and node.experts and node.id not in present]
    return Check(
        name="owners",
        ok=not outside,
        found=f"{', '.join(outside)} with experts, but without a leaf in gate {gate.version}"
        if outside
        else "every live node with experts has a leaf",
        remedy="see why: swarm events, swarm gate history; on that machine: swarm train DATA, or after a"
        " rollback that was not meant so: swarm gate rollback VERSION",
    )


def registry_checks(health: "RegistryHealth", owner: str = "") -> list[Check]:
    """Return what the registry's health tells; of quotas, what concerns one owner (empty: all)."""
    return [
        Check(
            name="registry",
            ok=not health.blobs_away,
            found=health.blobs_away or f"answers, {health.blobs} blobs, {bytes_text(health.blob_bytes)}",
            remedy="see that the blobs' store answers from the registry's machine",
        ),
        Check(
            name="registry's redis",
            ok=health.redis == "ok",
            found=f"{health.redis}, {health.durability}",
            remedy=_REDIS_AGAIN,
        ),
        Check(
            name="registry's versions",
            ok=not health.lost,
            found=f"{health.lost} acknowledged ones are not in Redis" if health.lost else "all are in Redis",
            remedy="start the coordinator: swarm coordinator; the registry then puts them back. If it has"
            " another Redis than before, name the right one: swarm registry --redis-url URL",
        ),
        Check(
            name="registry's blobs",
            ok=not health.missing_blobs,
            found=f"{health.missing_blobs} that are needed are not there"
            if health.missing_blobs
            else "all that are needed are there",
            remedy="let their owners bring them: swarm registry rebuild; or name the folder or bucket that"
            " has them: swarm registry --blobs PLACE",
        ),
        Check(
            name="registry's journal",
            ok=not health.journal_damaged,
            found=f"{health.journal_damaged} lines cannot be read" if health.journal_damaged else "whole",
            remedy="keep the file; what they said is lost with Redis unless its owner still has it: look with"
            " swarm registry rebuild, then swarm backup",
        ),
        certificate_check("registry's certificate", health.certificate_days, "service"),
        disk_check("registry's disk", health.disk_free_bytes),
        *([quota_check(health, owner)] if health.node_quota_bytes else []),
    ]


def quota_check(health: "RegistryHealth", owner: str = "") -> Check:
    """Return whether an owner (empty: every one) has room in the registry for what it publishes."""
    quota = health.node_quota_bytes
    full = [
        f"{each.owner} fills {bytes_text(each.size_bytes)}"
        + (f", and {bytes_text(each.refused_bytes)} more are refused" if each.refused_bytes else "")
        for each in health.owners
        if owner in ("", each.owner) and (each.refused_bytes or each.size_bytes >= quota)
    ]
    return Check(
        name="quota",
        ok=not full,
        found=f"{'; '.join(full)}; each node may fill {bytes_text(quota)}"
        if full
        else f"{owner or 'every owner'} has room; each node may fill {bytes_text(quota)}",
        remedy="give more, SWARM_REGISTRY_NODE_QUOTA, keep fewer versions, SWARM_REGISTRY_KEEP_VERSIONS, or"
        " let the owner withdraw some: swarm expert remove EXPERT",
    )


def agent_checks(own: "AgentState") -> list[Check]:
    """Return what a node's agent tells of itself."""
    return [
        Check(
            name="agent",
            ok=own.connected,
            found=f"runs, {'connected' if own.connected else 'not connected'}, {own.activity or 'idle'}",
            remedy="it connects by itself once the coordinator is reachable; look at run/agent.log",
        ),
        Check(
            name="outbox",
            ok=own.outbox == 0 or (own.connected and not own.outbox_trouble),
            found=f"{own.outbox} waiting" + (f"; {own.outbox_trouble}" if own.outbox_trouble else ""),
            remedy="mend what it names, or see that the swarm can be reached: it is tried again by itself",
        ),
        Check(
            name="expert server",
            ok=own.expert_server_pid > 0 or not own.experts,
            found=f"process {own.expert_server_pid}" if own.expert_server_pid else "not started",
            remedy="look at run/agent.log; swarm down, then swarm node",
        ),
        Check(
            name="stream",
            ok=not own.trouble,
            found=own.trouble or "nothing keeps it from going on",
            remedy="mend what it names: it is tried again by itself; or end it: swarm train --stop",
        ),
        certificate_check("node's certificate", own.certificate_days, "node"),
        disk_check("node's disk", own.disk_free_bytes),
    ]


def certificate_check(name: str, days: float, kind: str) -> Check:
    """Return whether a certificate still lives long enough; all renew by themselves while they run."""
    return Check(
        name=name,
        ok=days > LEAST_CERTIFICATE_DAYS[kind],
        found=f"{days:.1f} days left",
        remedy="it renews while the process runs: restart it and look at its log",
    )


def disk_check(name: str, free_bytes: int) -> Check:
    """Return whether there is room to work in."""
    return Check(
        name=name,
        ok=free_bytes > LEAST_DISK_BYTES,
        found=f"{bytes_text(free_bytes)} free",
        remedy=f"free at least {bytes_text(LEAST_DISK_BYTES)}; nothing is torn meanwhile",
    )


def start_again(service: Literal["coordinator", "registry"], known: "Identity", root: Path) -> str:
    """Return the command that starts a service where its members look for it, which may be at other ports
    than the usual ones; in words, where this home `root` is not the service's."""
    address = known.registry if service == "registry" else known.coordinator
    ports = [("--port", address, REGISTRY_PORT if service == "registry" else COORDINATOR_PORT)]
    if service == "coordinator":
        ports.append(("--join-port", known.join, COORDINATOR_JOIN_PORT))
    words = [f"swarm {service}"]
    for flag, where, usual in ports:
        port = where.rpartition(":")[2]
        words += [flag, port] if port.isdecimal() and int(port) != usual else []
    if (root / service / "identity").exists():
        for flag, number in noted_ports(SwarmHome(root).run, service).items():
            if flag != "--port" and (flag, number) != ("--http-port", COORDINATOR_HTTP_PORT):
                words += [flag, str(number)]
        return " ".join([*words, home_flag(root)])
    return f"{' '.join(words)}, on the founder's machine, in the founder's home"


def stopped_redis(root: Path) -> list[Check]:
    """Return what is wrong where this home's own Redis was running once and is not: nothing, or one check."""
    home = SwarmHome(root)
    runs = any(each.name == "redis" and each.process() for _, each in recorded_processes(home.run))
    if runs or not home.redis.exists():
        return []
    remedy = f"swarm redis {home_flag(root)}, before the services that need it"
    return [Check(name="redis", ok=False, found="this home's own does not run", remedy=remedy)]


async def examine(place: "Place") -> list[Check]:
    """Return every check that makes sense in this home, also when nothing answers."""
    from swarm.cli import places
    from swarm.cli.standing import check_present
    from swarm.domain.gates import GateStatement
    from swarm.trust.identity import certificate_not_after

    identity = place.identity()
    left = certificate_not_after(identity.certificate_pem) - datetime.now(UTC)
    kind = identity.role if identity.role in LEAST_CERTIFICATE_DAYS else "service"
    checks = [
        Check(
            name="home", ok=True, found=f"{identity.role} {identity.id} of {identity.swarm} in {place.root}"
        ),
        certificate_check("this identity's certificate", left.total_seconds() / 86400, kind),
        disk_check("this disk", shutil.disk_usage(place.root).free),
    ]
    if identity.role == "node":
        try:
            check_present(place)
        except SwarmError as error:
            return [*checks, failed("membership", error, error.remedy)]
        try:
            async with places.agent(place, start=False) as client:
                checks += agent_checks(await client.state())
        except SwarmError as error:
            checks.append(failed("agent", error, f"swarm node {home_flag(place.root)}"))
    try:
        async with places.coordinator(place) as client:
            seen = await client.status()
            checks += coordinator_checks(seen, time.time())
            if identity.role == "operator" and seen.gate_version:
                gate = identity.keyring().open(await client.gate(0), GateStatement).value
                checks.append(owners_check(seen, gate))
    except SwarmError as error:
        checks += stopped_redis(place.root)
        checks.append(failed("coordinator", error, start_again("coordinator", identity, place.root)))
    try:
        async with places.registry(place) as client:
            own = identity.id if identity.role == "node" else ""
            checks += registry_checks(await client.health(), own)
    except SwarmError as error:
        checks.append(failed("registry", error, start_again("registry", identity, place.root)))
    return checks
