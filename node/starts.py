"""Experts of other swarms that this node's owner decided to trust: what new leaves may start from.

`state/starts/<digest>.json` is an export's `manifest.json`, the weights lie in the cache. Nothing here is
served, lent or published: only what is trained from it, under this node's own name.
"""

from pathlib import Path

from node.durable import write_durably
from node.jobs import OfferedWeights
from swarm.config import NodeHome
from swarm.domain.errors import NotFoundError, UsageError
from swarm.domain.ids import Digest
from swarm.exchange.folder import Export
from swarm.exchange.proof import Proof, Proven, open_proof
from swarm.modules.blobs import BlobFiles


class Starts:
    """The starts of one node's home."""

    def __init__(self, home: NodeHome) -> None:
        self._folder, self._cache = home.state / "starts", home.cache

    def keep(self, export: Export) -> None:
        """Keep a verified export: the weights first, so that what is listed can be used."""
        cache = BlobFiles(self._cache)
        for data in export.blobs.values():
            cache.put(data)
        write_durably(self._path(export.proven.manifest.digest), export.proof.to_json())

    def find(self, text: str) -> Digest:
        """Return the kept manifest whose digest is text or begins so.

        Raises NotFoundError where there is none, UsageError where there are several.
        """
        kept = sorted(path.stem for path in self._folder.glob("*.json"))
        found = [digest for digest in kept if len(text) >= 4 and digest.startswith(text)]
        if not found:
            raise NotFoundError(
                f"start {text[:80]}",
                found=f"not among the {len(kept)} that were imported here"
                if kept
                else "nothing was imported here",
                expected="the digest of a manifest that was imported, or at least its first 4 digits",
                remedy="swarm import DIR --trust-foreign prints it",
            )
        if len(found) > 1:
            raise UsageError(
                f"start {text[:80]}",
                found=f"{len(found)} manifests that begin so",
                expected=f"one of {', '.join(found[:5])}",
            )
        return Digest(found[0])

    def weights(self, digest: Digest) -> OfferedWeights:
        """Return a kept expert's weights as a job takes them, its manifest verified again."""
        manifest = self.proven(digest).manifest.value
        return OfferedWeights(
            manifest=digest,
            net=manifest.net,
            class_names=manifest.class_names,
            modules=manifest.modules,
        )

    def proven(self, digest: Digest) -> Proven:
        """Return what a kept proof says; NotFoundError without one, VerificationError if it is damaged."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"start {digest[:12]}",
                found="nothing imported under that digest",
                expected="one of another swarm's that was imported here",
                remedy="swarm import DIR --trust-foreign",
            ) from None
        return open_proof(Proof.from_json(data, str(path)), str(path))

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest}.json"
