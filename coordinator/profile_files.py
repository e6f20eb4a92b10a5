"""Askers' profiles as files: the ones used last stay; who has the most makes room for others."""

import io
import os
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from coordinator.envelope_files import sweep_unfinished
from swarm.digests import digest_of
from swarm.domain.ids import Digest, NodeId
from swarm.domain.inference import Profile
from swarm.domain.tensors import FORBID_UNKNOWN
from swarm.gating.class_columns import ClassColumns
from swarm.trust.key_files import sync_folder, write_file

MOST_PROFILES = 256
IN_MEMORY = 16

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFacts:
    """What a profile's root is, besides its numbers: the contributions that it was solved from, its columns'
    classes and owners (`ClassColumns`; empty: none are told apart), trunk, temperature, the digest of its
    bytes. `asker` made it; empty in files from before this was kept."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    profile: Profile
    contributions: tuple[Digest, ...]
    class_names: tuple[str, ...]
    class_temperature: float
    trunk: Digest
    root: Digest
    asker: str = ""
    class_owners: tuple[int, ...] = ()

    @property
    def answered(self) -> tuple[str, ...]:
        """The classes that it tells apart, each once."""
        return tuple(dict.fromkeys(self.class_names))

    def given(self) -> tuple[tuple[NodeId, Digest], ...]:
        """Return the owners, each with the contribution that the root was solved from."""
        return tuple(zip(self.profile.owners, self.contributions, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KnownProfile:
    """A profile ready for use: its root scores the classes that its owners know (`facts.answered`)."""

    facts: ProfileFacts
    root: ClassColumns

    @classmethod
    def of(cls, facts: ProfileFacts, weights: NDArray[np.float32]) -> "KnownProfile":
        """Return the one with weights [M, K], a column for each of its class names, or [M, 2K] with their
        owners."""
        row_of = {name: row for row, name in enumerate(facts.answered)}
        rows = np.array([row_of[name] for name in facts.class_names], dtype=np.int64)
        owners = np.array(facts.class_owners, dtype=np.int64) if facts.class_owners else None
        root = ClassColumns(weights=weights, rows=rows, classes=len(row_of), owners=owners)
        return cls(facts=facts, root=root)


class ProfileFiles:
    """`<id>.npy` (the root) and `<id>.json` (its facts), at most `most` of them; `in_memory` stay loaded.

    The root is written first, so facts on disk always have it. Safe to be called from several threads.
    """

    def __init__(self, folder: Path, *, most: int = MOST_PROFILES, in_memory: int = IN_MEMORY) -> None:
        self._folder, self._most, self._in_memory = folder, most, in_memory
        self._loaded: OrderedDict[str, KnownProfile] = OrderedDict()
        self._lock = threading.RLock()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep_unfinished(folder)
        for root in folder.glob("*.npy"):
            if not root.with_suffix(".json").exists():
                root.unlink(missing_ok=True)
        self._askers = {id: self._asker_of(id) for id in self._oldest_first()}

    def get(self, id: str) -> KnownProfile | None:
        """Return a profile, from now on the one used last; None where there is none or it was damaged."""
        with self._lock:
            known = self._loaded.get(id) or self._read(id)
            if known is None:
                return None
            self._keep(id, known)
            try:
                os.utime(self._facts(id))
            except OSError:
                self.remove(id)
                return None
            return known

    def put(
        self,
        profile: Profile,
        root: ClassColumns,
        *,
        asker: NodeId,
        contributions: tuple[Digest, ...],
        class_names: tuple[str, ...],
        class_temperature: float,
        trunk: Digest,
    ) -> KnownProfile:
        """Keep a profile with its root, a class name for each of whose rows.

        Beyond `most` the asker with the most loses the one used longest ago.
        """
        buffer = io.BytesIO()
        np.save(buffer, root.weights, allow_pickle=False)
        facts = ProfileFacts(
            profile=profile,
            contributions=contributions,
            class_names=class_names,
            class_temperature=class_temperature,
            trunk=trunk,
            root=digest_of(buffer.getvalue()),
            asker=asker,
            class_owners=() if root.owners is None else tuple(root.owners.tolist()),
        )
        known = KnownProfile.of(facts, root.weights)
        with self._lock:
            write_file(self._root(profile.id), buffer.getvalue(), 0o600)
            write_file(self._facts(profile.id), TypeAdapter(ProfileFacts).dump_json(facts), 0o600)
            self._keep(profile.id, known)
            self._askers[profile.id] = asker
            self._make_room()
        return known

    def remove(self, id: str) -> None:
        """Forget a profile; again is harmless."""
        with self._lock:
            self._loaded.pop(id, None)
            self._askers.pop(id, None)
            self._facts(id).unlink(missing_ok=True)
            self._root(id).unlink(missing_ok=True)
            sync_folder(self._folder)

    def _make_room(self) -> None:
        kept = self._oldest_first()
        while len(kept) > self._most:
            counts = Counter(self._askers.get(id, "") for id in kept)
            most = max(counts.values())
            oldest = next(id for id in kept if counts[self._askers.get(id, "")] == most)
            kept.remove(oldest)
            self.remove(oldest)

    def _keep(self, id: str, known: KnownProfile) -> None:
        self._loaded[id] = known
        self._loaded.move_to_end(id)
        while len(self._loaded) > self._in_memory:
            self._loaded.popitem(last=False)

    def _read(self, id: str) -> KnownProfile | None:
        try:
            facts = TypeAdapter(ProfileFacts).validate_json(self._facts(id).read_bytes())
            data = self._root(id).read_bytes()
        except FileNotFoundError:
            return None
        except ValidationError as error:
            log.error("profile.damaged", profile=id, reason=str(error)[:200])
            return None
        if digest_of(data) != facts.root or facts.profile.id != id:
            log.error("profile.damaged", profile=id, reason="other bytes than were written")
            return None
        return KnownProfile.of(facts, np.load(io.BytesIO(data), allow_pickle=False))

    def _asker_of(self, id: str) -> str:
        try:
            return TypeAdapter(ProfileFacts).validate_json(self._facts(id).read_bytes()).asker
        except (FileNotFoundError, ValidationError):
            return ""

    def _oldest_first(self) -> list[str]:
        ages = []
        for path in self._folder.glob("*.json"):
            try:
                ages.append((path.stat().st_mtime_ns, path.stem))
            except FileNotFoundError:
                continue
        return [id for _, id in sorted(ages)]

    def _facts(self, id: str) -> Path:
        return self._folder / f"{id}.json"

    def _root(self, id: str) -> Path:
        return self._folder / f"{id}.npy"
