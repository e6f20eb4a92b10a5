"""Holding experts of others, so that they answer while their owners are away.

What the coordinator places here comes first, and is kept loaded (docs/adr/0019). Besides, for each expert in
the gate the `count` next owners in its own order (rendezvous hashing, Thaler & Ravishankar 1998) hold the
version that answers for it: everybody works that out from the gate alone, also while the coordinator is away,
and one owner that comes or goes moves only what it held. What is held is announced with heartbeats, so the
coordinator asks it where the owner is away. Serve-only experts stay with their owners; nets that this node
cannot build, and what is beyond its share of the disk, are left to others.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog
from pydantic import TypeAdapter, ValidationError

from node.durable import write_durably, write_json
from swarm.domain.errors import SwarmError, UnreachableError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import Digest, ExpertId, NodeId
from swarm.domain.manifests import Manifest
from swarm.modules.blobs import BlobFiles
from swarm.rpc.verified import VerifiedRegistry
from swarm.transfer import likeliest
from swarm.trust.statements import read_statement

LOOK_S: Final = 60.0
"""How often it looks for newer versions where no gate tells it to."""
GRACE_S: Final = 120.0
"""How long a version that is no longer wanted stays: the coordinator may just be asking for it."""
_HELD = TypeAdapter(dict[Digest, float])
_PLACED = TypeAdapter(tuple[Digest, ...])
_log = structlog.get_logger(__name__)


def stand_ins(expert: ExpertId, owner: NodeId, nodes: Iterable[NodeId], count: int) -> tuple[NodeId, ...]:
    """Return who of the nodes holds an owner's expert, at most `count`, the first to hold it first."""
    return likeliest(expert, owner, {*nodes} - {owner})[:count]


class StandingIn:
    """Keeps `cache/manifests` and its blobs as the newest gate wants them of this node.

    `state/standing-in.json` says which of those it fetched itself, and since when they are not wanted any
    more (0: they are); what was imported by hand stays.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        state: Path,
        cache: BlobFiles,
        registry: VerifiedRegistry,
        gate: Callable[[], GateStatement | None],
        can_build: Callable[[str], bool],
        own_manifests: Path,
        count: int,
        most_bytes: int,
        load: Callable[[Manifest, Digest], Awaitable[object]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`count` 0: none, nor does the coordinator place any here. `most_bytes`: what all of them together
        may fill. `load` has a version loaded."""
        self._node, self._cache, self._registry = node, cache, registry
        self._gate, self._can_build, self._own = gate, can_build, own_manifests
        self._count, self._most_bytes, self._clock = count, most_bytes, clock
        self._folder, self._record = cache.folder / "manifests", state / "standing-in.json"
        self._placed_file, self._load = state / "placed.json", load
        self._held = self._read()
        self._placed = self._read_placed()
        self.declined: tuple[Digest, ...] = ()
        """Of what was placed here, what this node may or can not hold."""
        self._kicked = asyncio.Event()

    @property
    def room_bytes(self) -> int:
        """What experts of others may fill here, 0 where it holds none."""
        return self._most_bytes if self._count else 0

    def place(self, manifests: Sequence[Digest]) -> None:
        """Hold these and keep them loaded, own ones too: all that the coordinator places here from now on."""
        if tuple(manifests) != self._placed:
            self._placed = tuple(manifests)
            write_json(self._placed_file, self._placed)
        self.kick()

    def kick(self) -> None:
        """Look again soon: there is another gate, or another expert server that has nothing loaded."""
        self._kicked.set()

    async def run(self) -> None:
        """Look whenever the gate changes, and now and then; what fails is tried again."""
        while True:
            try:
                await self.look()
            except (SwarmError, OSError) as error:
                _log.info("standing_in.later", because=str(error))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._kicked.wait()
            except TimeoutError:
                pass
            self._kicked.clear()

    async def look(self) -> None:
        """Hold what was placed here and what the present gate wants of this node, and let go of what is
        wanted no longer."""
        await self._load_placed()
        filled = await self._hold_placed()
        gate = self._gate()
        leaves = () if gate is None else self._asked(gate)
        wanted = set(self._placed)
        if leaves:
            heads = {head.expert: head.manifest for head in await self._registry.client.heads()}
            for leaf in leaves:
                digest = Digest(leaf.manifest or heads.get(leaf.expert, ""))
                if digest in wanted or not digest:
                    continue
                if size := await self._hold(digest, self._most_bytes - filled):
                    wanted.add(digest)
                    filled += size
        self._let_go(wanted)

    async def _hold_placed(self) -> int:
        """Fetch and load what was placed here and is not; return the bytes that others' experts fill."""
        filled, declined, fetched = 0, [], list[Digest]()
        for digest in self._placed:
            if (self._own / f"{digest}.json").exists():
                continue
            was_here = self._file(digest).exists()
            size = await self._hold(digest, self._most_bytes - filled) if self._count else 0
            filled += size
            if not size:
                declined.append(digest)
            elif not was_here:
                fetched.append(digest)
        self.declined = tuple(declined)
        await self._load_placed(fetched)
        return filled

    async def _load_placed(self, only: Sequence[Digest] | None = None) -> None:
        """Have loaded what was placed here and is here. Again and again: so it is not the least recently
        asked, which a full memory forgets first."""
        for digest in self._placed if only is None else only:
            file = next((f for f in (self._own / f"{digest}.json", self._file(digest)) if f.exists()), None)
            if self._load is None or file is None:
                continue
            try:
                await self._load(read_statement(file.read_bytes(), Manifest).value, digest)
            except (SwarmError, OSError) as error:
                _log.info("expert.not_loaded", manifest=digest[:12], because=str(error))

    def _asked(self, gate: GateStatement) -> Sequence[GateLeaf]:
        nodes = {leaf.owner for leaf in gate.leaves} | {self._node}
        return [
            leaf
            for leaf in gate.leaves
            if leaf.owner != self._node
            and self._node in stand_ins(leaf.expert, leaf.owner, nodes, self._count)
        ]

    async def _hold(self, digest: Digest, room: int) -> int:
        """Fetch a version unless it is here; return its bytes, 0 where this node may or can not hold it."""
        try:
            statement = await self._registry.manifest(digest)
            manifest = statement.value
            if manifest.share == "serve-only" or not self._can_build(manifest.net.factory):
                return 0
            size = sum(module.size_bytes for module in manifest.modules)
            if size > room:
                _log.info("standing_in.no_room", expert=manifest.expert, size_bytes=size, room_bytes=room)
                return 0
            if not self._file(digest).exists() or self._cache.missing(manifest.blobs()):
                await self._registry.blobs(manifest)
                self._note({**self._held, digest: 0.0})
                write_durably(self._file(digest), statement.envelope)
                _log.info("standing_in.holds", expert=manifest.expert, version=manifest.version)
        except UnreachableError:
            raise  # what is held stays, and the next look goes on
        except SwarmError as error:
            _log.info("standing_in.cannot", manifest=digest[:12], because=str(error))
            return 0
        return max(size, 1)

    def _let_go(self, wanted: set[Digest]) -> None:
        now, held = self._clock(), dict(self._held)
        for digest, since in self._held.items():
            if digest in wanted:
                held[digest] = 0.0
            elif not since:
                held[digest] = now
            elif now - since >= GRACE_S:
                del held[digest]
                self._remove(digest)
        self._note(held)

    def _remove(self, digest: Digest) -> None:
        file = self._file(digest)
        blobs = set(_blobs_in([file]))
        file.unlink(missing_ok=True)
        others = [*self._own.glob("*.json"), *self._folder.glob("*.json")]
        for blob in blobs - set(_blobs_in(others)):
            self._cache.remove(blob)

    def _file(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.json"

    def _note(self, held: dict[Digest, float]) -> None:
        if held != self._held:
            self._held = held
            write_json(self._record, held)

    def _read_placed(self) -> tuple[Digest, ...]:
        try:
            return _PLACED.validate_json(self._placed_file.read_bytes())
        except (OSError, ValidationError):
            return ()  # the coordinator says it again

    def _read(self) -> dict[Digest, float]:
        try:
            return _HELD.validate_json(self._record.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            _log.warning("standing_in.unreadable", file=str(self._record), because=str(error)[:200])
            return {}


def _blobs_in(files: Iterable[Path]) -> Iterable[Digest]:
    for file in files:
        try:
            yield from read_statement(file.read_bytes(), Manifest).value.blobs()
        except (SwarmError, OSError, json.JSONDecodeError) as error:
            _log.warning("manifest.unreadable", file=str(file), because=str(error))
