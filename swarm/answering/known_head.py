"""One version of an expert, as routing needs it, and what is asked of whoever knows the versions."""

from dataclasses import dataclass, field
from typing import Protocol

from swarm.answering.head_changes import HeadChanges
from swarm.digests import digest_of
from swarm.domain.gates import GateLeaf
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.manifests import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHead:
    """One version of an expert, its newest or a pinned one; the manifest's signature was verified."""

    manifest: Manifest
    digest: Digest
    identity: str = field(init=False)
    """The same for versions that compute the same; reckoned once, for every query looks at it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", digest_of(repr(self.manifest.computes).encode()))

    @property
    def module_digests(self) -> tuple[Digest, ...]:
        return tuple(module.digest for module in self.manifest.modules)


class KnownHeads(Protocol):
    """The experts' versions that count now."""

    @property
    def changes(self) -> HeadChanges:
        """What `answering` has come to say otherwise, up to this moment."""

    def answering(self, leaf: GateLeaf) -> KnownHead | None:
        """Return the version that answers for a leaf: the pinned one, else its expert's newest; None where
        there is none, or it was withdrawn."""

    def get(self, expert: ExpertId) -> KnownHead | None:
        """Return an expert's newest version, None where there is none or it was withdrawn."""
