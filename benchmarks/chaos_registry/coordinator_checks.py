"""After a restart: is all that the coordinator acknowledged there, whole, the same in Redis and files?"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

from benchmarks.chaos_registry.coordinator_site import CoordinatorSite
from benchmarks.chaos_registry.site import KEPT, Tally
from swarm.domain.errors import StaleFenceError, SwarmError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import ROOT_EXPERT, Digest, NodeId, owner_of
from swarm.domain.manifests import Manifest
from swarm.domain.members import RevocationList
from swarm.domain.specification import Specification
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.trust.statements import read_statement, statement_digest

MOST_LOOKS = 100
LOOKED_BACK = 6
"""So many of the newest gate versions are compared after each kill, and all of them at the end."""


async def check(site: CoordinatorSite, tally: Tally, *, everything: bool = False) -> None:
    """Count what was acknowledged and is lost, and what is visible in part."""
    await _gates(site, tally, everything=everything)
    await _statements(site, tally)
    await _members(site, tally)
    await _fences(site, tally)
    left = site.unfinished()
    for _ in range(MOST_LOOKS):  # what was begun since the restart ends
        if not left:
            break
        await asyncio.sleep(0.02)
        left &= site.unfinished()
    tally.orphans += len(left)
    if left:
        tally.note("unfinished: " + ", ".join(sorted(left))[:200])
    tally.acked = (
        len(site.told_gates)
        + sum(map(len, site.fences.values()))
        + len(site.published)
        + len(site.joined)
        + len(site.gone)
    )


def lost(tally: Tally, found: Iterable[object] | bool, what: str) -> None:
    count = int(found) if isinstance(found, bool) else len(list(found))
    tally.acked_lost += count
    if count:
        tally.note(f"lost: {what}", count)


def half(tally: Tally, is_half: bool, what: str) -> None:
    tally.half_visible += is_half
    if is_half:
        tally.note(f"half visible: {what}")


async def _gates(site: CoordinatorSite, tally: Tally, *, everything: bool) -> None:
    store, told = site.store, site.told_gates
    newest = await store.gate()
    if newest is None:
        lost(tally, bool(told), "every gate")
        return
    gate = read_statement(newest, GateStatement).value
    lost(tally, gate.version < max(told, default=0), "a gate's version")
    lost(tally, [version for version in told if version < 0], "one gate version, two statements")
    for version in range(1 if everything else max(1, gate.version - LOOKED_BACK), gate.version + 1):
        in_store, file = await store.gate(version), site.kept.gates / f"{version}.json"
        half(tally, in_store is None or not file.exists() or file.read_bytes() != in_store, "a gate's file")
        lost(tally, version in told and told[version] != in_store, "a gate that was told")
    half(tally, await site.client_of_operator.gate() != newest, "a gate that is not served")
    half(tally, (site.kept.gates / f"{gate.version + 1}.json").exists(), "a gate beyond Redis")
    await _is_whole(site, newest, tally)


async def _is_whole(site: CoordinatorSite, envelope: bytes, tally: Tally) -> None:
    cache = BlobFiles(site.folder / "checked")
    async with site.client(site.operator) as registry:
        verified = VerifiedRegistry(registry, site.client_of_operator, site.operator.keyring(), cache)
        try:
            gate = (await verified.open(envelope, GateStatement)).value
            await verified.gate_arrays(gate)
            for leaf in gate.leaves:
                await verified.blobs((await verified.manifest(leaf.manifest or leaf.expert)).value)
        except SwarmError as error:
            half(tally, True, f"the newest gate: {error}")
            return
        here = BlobFiles(site.kept.blobs)
        half(tally, bool(here.missing(entry.blob for entry in gate.arrays)), "arrays of the newest gate")
        half(tally, not all(map(site.contribution_is_here, gate.contributions)), "a contribution of the gate")
        heads = {head.expert: head for head in await registry.heads()}
    half(tally, any(leaf.owner in site.gone for leaf in gate.leaves), "a leaf of one that left")
    for owner, head in site.published.items():
        if owner not in site.tried_to_go:
            found = heads.get(head.expert)
            lost(tally, found is None or found.version < head.version, "a publish")
            kept = site.kept.heads / f"{head.expert}.json"
            same = (
                found is not None and kept.exists() and statement_digest(kept.read_bytes()) == found.manifest
            )
            half(tally, not same, "a head that the coordinator does not know")
    lost(tally, [each for each in heads if owner_of(each) in site.gone], "a withdrawal")


async def _statements(site: CoordinatorSite, tally: Tally) -> None:
    """Revocations and specification: the same in Redis, in the files and in what is served."""
    store, client = site.store, site.client_of_operator
    listed = await client.revocations()
    number = read_statement(listed, RevocationList).value.number
    kept = site.kept.revocations / f"{number}.json"
    half(tally, await store.revocations() != listed or kept.read_bytes() != listed, "a revocation list")
    half(tally, (site.kept.revocations / f"{number + 1}.json").exists(), "a revocation list beyond Redis")
    revoked = set(read_statement(listed, RevocationList).value.nodes)
    lost(tally, site.gone - revoked, "a revocation")
    current = await client.specification()
    version = read_statement(current, Specification).value.version
    kept = site.kept.specifications / f"{version}.json"
    half(tally, await store.specification() != current or kept.read_bytes() != current, "a specification")


async def _members(site: CoordinatorSite, tally: Tally) -> None:
    store = site.store
    records, stones = await store.records(), await store.tombstones()
    for member, record in records.items():
        kept = site.kept.records / f"{member}.json"
        half(tally, not kept.exists() or kept.read_bytes() != record, "a member's record")
    lost(tally, site.joined - records.keys(), "a join")
    lost(tally, site.gone - {NodeId(name) for name in stones}, "a tombstone")
    revoked = read_statement(await store.revocations() or b"", RevocationList).value.nodes
    half(tally, {NodeId(name) for name in stones} != set(revoked), "a leave that is done in part")
    for name in stones:
        half(tally, not (site.kept.tombstones / f"{name}.json").exists(), "a tombstone's file")


async def _fences(site: CoordinatorSite, tally: Tally) -> None:
    """No fence is given twice, the newest one is on disk, and an older one renews nothing."""
    tally.stale_accepted += site.given_twice
    if site.given_twice:
        tally.note("a fence given twice", site.given_twice)
    site.given_twice = 0
    for node, given in site.fences.items():
        lost(tally, given != sorted(given), "the order of fences")
        kept = site.kept.fences / f"{node}.json"
        newest = json.loads(kept.read_bytes())["fence"] if kept.exists() else 0
        lost(tally, newest < max(given), "a fence")


async def check_stale(site: CoordinatorSite, node: NodeId, tally: Tally) -> None:
    """Try to renew a lease by each of the fences that a node had before its newest."""
    for fence in site.fences[node][-3:-1]:
        with suppress(StaleFenceError):
            await site.store.renew_lease(node, fence, 60)
            tally.stale_accepted += 1
            tally.note("an old fence renewed a lease")


async def check_root(site: CoordinatorSite, tally: Tally) -> None:
    """The registry's versions of the root are those that the coordinator keeps, as soon as none is on its
    way: a root is published after its gate."""
    not_kept = await _roots_not_kept(site)
    for _ in range(MOST_LOOKS):
        if not not_kept:
            return
        await asyncio.sleep(0.05)
        not_kept &= await _roots_not_kept(site)
    lost(tally, not_kept, "a version of the root that is not kept")


async def _roots_not_kept(site: CoordinatorSite) -> set[int]:
    head = await site.store.head(ROOT_EXPERT)
    found = set()
    for version in range(1, (head.version if head else 0) + 1):
        kept = site.kept.own_versions / f"{version}.json"
        in_store = await site.store.manifest_at(ROOT_EXPERT, version)
        if not kept.exists() or statement_digest(kept.read_bytes()) != in_store:
            found.add(version)
    return found


async def count_orphans(site: CoordinatorSite, tally: Tally) -> None:
    """Collect without waiting, and count the blobs at the registry that nothing names."""
    await site.end_coordinator()
    await site.end_registry()
    await site.start_registry(how="at-once")
    async with site.client(site.operator) as registry:
        await registry.collect(dry_run=False)
        await registry.collect(dry_run=False)
    wanted = await _wanted_blobs(site)
    here = {Digest(path.name) for path in site.blobs.glob("??/*")}
    lost(tally, wanted - here, "a wanted blob that was collected")
    left = len(here - wanted) + len(list((site.blobs / "incoming").iterdir()))
    tally.orphans += left
    if left:
        tally.note("blobs that nothing needs", left)


async def _wanted_blobs(site: CoordinatorSite) -> set[Digest]:
    """Return the blobs that have to stay, by the rules that docs/registry.md states and not by the
    collector's code."""
    newest = read_statement(await site.store.gate() or b"", GateStatement).value.version
    pinned: set[str] = set()
    wanted: set[Digest] = set()
    in_reach = range(max(1, newest - KEPT.gate_versions + 1), newest + 1)
    for version in in_reach:
        gate = read_statement(await site.store.gate(version) or b"", GateStatement).value
        wanted |= {entry.blob for entry in gate.arrays}
        pinned |= {leaf.manifest for leaf in gate.leaves if leaf.manifest}
    gone = await site.store.tombstones()
    made = {
        digest: read_statement(await site.store.manifest(digest) or b"", Manifest).value
        for digest in await site.store.manifests()
    }
    living = {digest: each for digest, each in made.items() if not {each.expert, each.owner} & gone.keys()}
    borrowed = _borrowed(living)
    newest_of = defaultdict[str, list[int]](list)
    for each in living.values():
        newest_of[each.expert].append(each.version)
    for digest, each in living.items():
        newer = [version for version in newest_of[each.expert] if version > each.version]
        is_root = each.expert == ROOT_EXPERT and each.gate_version_seen in in_reach
        if len(newer) < KEPT.keep_versions or is_root or digest in pinned | borrowed:
            wanted |= set(each.blobs())
    trunk = read_statement(await site.store.specification() or b"", Specification).value.trunk
    return wanted | {each.blob for module in (trunk.weights, trunk.probe) for each in module.tensors}


def _borrowed(living: Mapping[Digest, Manifest]) -> set[Digest]:
    """Return what living heads of other experts came from."""
    heads: dict[str, Digest] = {}
    for digest in sorted(living, key=lambda each: living[each].version):
        heads[living[digest].expert] = digest
    found: set[Digest] = set()
    for head in heads.values():
        waiting = [head]
        seen: set[Digest] = set()
        while waiting:
            for parent in living[waiting.pop()].parents:
                if parent.manifest in living and parent.manifest not in seen:
                    seen.add(parent.manifest)
                    waiting.append(parent.manifest)
        found |= {each for each in seen if living[each].expert != living[head].expert}
    return found
