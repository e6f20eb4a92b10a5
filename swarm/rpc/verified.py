"""The registry with nothing taken on trust: statements by their signers, blobs by their digests.

What passes lies in the cache and is served from there, also while the registry is away.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from swarm.domain.errors import NotFoundError, VerificationError
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.specification import Specification
from swarm.domain.tensors import TensorEntry
from swarm.modules.blobs import BlobFiles
from swarm.modules.packing import check_module, unpack
from swarm.rpc.clients import CoordinatorClient, RegistryClient
from swarm.rpc.lineage_deltas import LineageDeltas
from swarm.rpc.peers import FindPeers
from swarm.transfer import Holder, Holders, download
from swarm.trust.keyring import Keyring, UnknownMemberError
from swarm.trust.statements import Statement

T = TypeVar("T")
OnStart = Callable[[int], Callable[[int], None]]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CONCURRENT_FETCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What fetching a version took: of `came_bytes` of weights that were not here, `delta_bytes` came as
    deltas of `delta_sent_bytes`."""

    came_bytes: int = 0
    delta_bytes: int = 0
    delta_sent_bytes: int = 0


def _unseen(total: int) -> Callable[[int], None]:
    return lambda count: None


class VerifiedRegistry:
    """Verified manifests, modules and gates. Records of unknown signers come from the coordinator."""

    def __init__(
        self,
        client: RegistryClient,
        coordinator: CoordinatorClient | None,
        keyring: Keyring,
        cache: BlobFiles,
        peers: Sequence[Holder] = (),
        *,
        find_peers: FindPeers | None = None,
        deltas: bool = False,
    ) -> None:
        """`peers`: nodes that may have a module's blobs as well; nothing that they say is believed.
        `find_peers` opens such nodes for a version whose weights are not all here.
        `deltas`: a manifest's blobs come as deltas to those of its ancestors, as far as that pays."""
        self.client, self.keyring, self.cache = client, keyring, cache
        self._peers, self._find_peers = tuple(peers), find_peers
        self.dropped: dict[str, str] = {}
        """The holders that lied or were late, each with the reason."""
        self._coordinator = coordinator
        self._manifests: dict[Digest, Statement[Manifest]] = {}
        self._slots = asyncio.Semaphore(_CONCURRENT_FETCHES)
        self._deltas = LineageDeltas(client, cache, self._ancestor) if deltas else None

    async def manifest(self, reference: str, version: int = 0) -> Statement[Manifest]:
        """Return a manifest by digest, or by expert and version (0: its head).

        Raises VerificationError where it is unsigned, another than the one asked for, or its signer revoked.
        """
        if not _DIGEST.fullmatch(reference):
            envelope = await self.client.manifest(expert=reference, version=version)
            statement = await self.open(envelope, Manifest)
            found = statement.value
            if found.expert != reference or version not in (0, found.version):
                raise VerificationError(
                    f"manifest of {reference}@{version or 'head'}",
                    found=f"{found.expert}@{found.version}",
                    expected="the one asked for",
                )
        else:
            digest = Digest(reference)
            known = self._manifests.get(digest)
            if known is not None and not self.keyring.is_revoked(known.value.owner):
                return known
            statement = await self.open(await self.client.manifest(digest=digest), Manifest)
            _check_digest(statement, digest, "manifest")
        self._manifests[statement.digest] = statement
        return statement

    async def open(self, envelope: bytes, cls: type[T]) -> Statement[T]:
        """Return a statement that its rightful signer has signed, fetching the signer's record if need be."""
        try:
            return self.keyring.open(envelope, cls)
        except UnknownMemberError as unknown:
            if self._coordinator is None:
                raise
            self.keyring.add_record(await self._coordinator.record(NodeId(unknown.member)))
            return self.keyring.open(envelope, cls)

    async def learn_revocations(self) -> None:
        """Ask the coordinator who is revoked: from here on no statement of theirs is opened."""
        revocations = await self._required().revocations()
        if revocations:
            self.keyring.set_revocations(revocations)

    async def gate(self, version: int = 0) -> Statement[GateStatement]:
        """Return a gate's statement from the coordinator; version 0: the current one."""
        statement = await self.open(await self._required().gate(version), GateStatement)
        if version not in (0, statement.value.version):
            raise VerificationError(
                f"gate {version}", found=f"gate {statement.value.version}", expected="the one asked for"
            )
        return statement

    async def specification(self, version: int = 0) -> Statement[Specification]:
        """Return a specification from the coordinator; version 0: the current one."""
        statement = await self.open(await self._required().specification(version), Specification)
        if version not in (0, statement.value.version):
            raise VerificationError(
                f"specification {version}",
                found=f"specification {statement.value.version}",
                expected="the one asked for",
            )
        return statement

    async def blobs(self, manifest: Manifest, on_start: OnStart = _unseen) -> Fetched:
        """Bring all blobs of a manifest into the cache, check each module, its correction's too, and return
        what came.

        `on_start` is told how many bytes are to come, and returns what is told each piece of them.

        Raises VerificationError, naming expert and module or blob, for tampered bytes, digests that do not
        fit, and values that are not finite; NotFoundError, naming them too, for a blob that nobody has.
        """
        corrections = manifest.correction.modules if manifest.correction is not None else ()
        modules = (*manifest.modules, *corrections)
        entries = [tensor for module in modules for tensor in module.tensors]
        ends = _ends(entries)
        absent = await asyncio.to_thread(self._absent, list(ends))
        on_bytes = on_start(sum(ends[blob] for blob in absent))
        try:
            deltas = await self._deltas.fetch(manifest, on_bytes) if self._deltas is not None else {}
            whole = [blob for blob in absent if blob not in deltas]
            async with self._holders_of(manifest, whole) as holders:
                await self.fetch(entries, lambda total: on_bytes, holders=holders)
            for module in modules:
                await asyncio.to_thread(check_module, module, self.cache.open_verified)
        except NotFoundError as error:
            raise NotFoundError(
                f"{manifest.expert}@{manifest.version}: {error.subject}",
                found=error.found,
                expected=error.expected,
                remedy=error.remedy
                or f"{manifest.owner} brings back what was lost: swarm registry rebuild; then try again",
            ) from error
        except VerificationError as error:
            raise VerificationError(
                f"{manifest.expert}@{manifest.version}: {error.subject}",
                found=error.found,
                expected=error.expected,
                remedy=error.remedy,
            ) from error
        return Fetched(
            came_bytes=sum(self.cache.size(blob) for blob in absent),
            delta_bytes=sum(self.cache.size(blob) for blob in deltas),
            delta_sent_bytes=sum(deltas.values()),
        )

    async def gate_arrays(
        self, gate: GateStatement, names: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return a gate's arrays of these names (None: all), read-only, from verified blobs.

        Raises NotFoundError for a name that the gate does not have, VerificationError for tampered bytes.
        """
        entries = _named(gate, names) if names is not None else gate.arrays
        try:
            await self.fetch(entries, of=gate.arrays)
            return await asyncio.to_thread(unpack, entries, self.cache.open_verified)
        except VerificationError as error:
            raise VerificationError(
                f"gate {gate.version}: {error.subject}",
                found=error.found,
                expected=error.expected,
                remedy=error.remedy,
            ) from error

    async def fetch(
        self,
        entries: Sequence[TensorEntry],
        on_start: OnStart = _unseen,
        *,
        of: Sequence[TensorEntry] | None = None,
        holders: Sequence[Holder] = (),
    ) -> None:
        """Bring the blobs that hold these tensors into the cache, a few at a time; whole or not at all.

        `of`: all tensors of what these are some of, which may share their blobs; None: these are all.
        `holders`: who may have them besides the registry and the peers. A blob that was damaged in the cache
        is fetched again.
        """
        whole = entries if of is None else of
        sizes, ends = _sizes(whole), _ends(whole)
        absent = await asyncio.to_thread(self._absent, list(dict.fromkeys(each.blob for each in entries)))
        on_bytes = on_start(sum(ends[blob] for blob in absent))
        asked = Holders((self.client.holder(), *self._peers, *holders))
        fetches = [
            asyncio.ensure_future(self._fetch(blob, sizes[blob], ends[blob], asked, on_bytes))
            for blob in absent
        ]
        try:
            await asyncio.gather(*fetches)
        finally:
            for fetch in fetches:
                fetch.cancel()
            await asyncio.gather(*fetches, return_exceptions=True)
            self.dropped |= asked.dropped

    @asynccontextmanager
    async def _holders_of(self, manifest: Manifest, absent: list[Digest]) -> AsyncIterator[Sequence[Holder]]:
        """Open the nodes that may have a version's weights, where some of those are not here."""
        if self._find_peers is None or not absent:
            yield ()
            return
        async with self._find_peers(manifest) as found:
            yield found

    async def _ancestor(self, digest: Digest) -> Manifest:
        return (await self.manifest(digest)).value

    def _absent(self, blobs: list[Digest]) -> list[Digest]:
        absent = []
        for blob in blobs:
            try:
                self.cache.open_verified(blob)
            except (NotFoundError, VerificationError):
                absent.append(blob)
        return absent

    async def _fetch(
        self,
        blob: Digest,
        size_bytes: int | None,
        end: int,
        holders: Holders,
        on_bytes: Callable[[int], None],
    ) -> None:
        async with self._slots:
            if size_bytes is None:
                await self.client.fetch_into(blob, self.cache)
                on_bytes(end)
            elif not self.cache.has(blob):
                await download(blob, size_bytes, holders, self.cache, on_bytes=on_bytes)

    def _required(self) -> CoordinatorClient:
        if self._coordinator is None:
            raise NotFoundError("coordinator", found="no address", expected="the coordinator's host:port")
        return self._coordinator


def _named(gate: GateStatement, names: Sequence[str]) -> tuple[TensorEntry, ...]:
    by_name = {entry.name: entry for entry in gate.arrays}
    absent = next((name for name in names if name not in by_name), None)
    if absent is not None:
        raise NotFoundError(
            f"gate {gate.version}",
            found=f"no array {absent[:40]!r}",
            expected=f"one of {', '.join(list(by_name)[:20])}",
        )
    return tuple(by_name[name] for name in dict.fromkeys(names))


def _sizes(entries: Sequence[TensorEntry]) -> dict[Digest, int | None]:
    """Return the entries' blobs, each with its size where it holds one tensor alone."""
    sizes: dict[Digest, int | None] = {}
    for entry in entries:
        alone = entry.blob not in sizes and entry.offset == 0
        sizes[entry.blob] = entry.size_bytes if alone else None
    return sizes


def _ends(entries: Sequence[TensorEntry]) -> dict[Digest, int]:
    """Return the entries' blobs, each with where the last of its tensors ends."""
    ends: dict[Digest, int] = {}
    for entry in entries:
        ends[entry.blob] = max(ends.get(entry.blob, 0), entry.offset + entry.size_bytes)
    return ends


def _check_digest(statement: Statement[Any], expected: Digest, subject: str) -> None:
    if statement.digest != expected:
        raise VerificationError(
            f"{subject} {expected[:12]}",
            found=f"a statement with digest {statement.digest[:12]}",
            expected=f"digest {expected[:12]}",
            remedy="it is not used; ask another holder",
        )
