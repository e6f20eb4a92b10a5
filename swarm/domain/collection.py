"""What a collection of the registry's blobs took away and what it left, and what each owner fills."""

from dataclasses import dataclass
from typing import Literal

from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest, NodeId

KeptAncestors = Literal["borrowed", "all", "none"]
"""Which ancestors of heads keep their weights beyond the newest versions: other experts', all, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """Whose weights stay: heads and what gates pin always; of each expert `keep_versions` (0: all);
    of what heads came from, `keep_ancestors`; the arrays of the newest `gate_versions` gates."""

    keep_versions: int = 20
    keep_ancestors: KeptAncestors = "borrowed"
    gate_versions: int = 50

    def __post_init__(self) -> None:
        if self.keep_versions < 0 or self.gate_versions < 1:
            raise InvalidInputError(
                "retention",
                found=f"{self.keep_versions} versions, {self.gate_versions} gates",
                expected="0 or more versions, 1 or more gates",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobVerdict:
    """One blob, and why it stays or goes."""

    blob: Digest
    size_bytes: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What went (or would go) and the largest that stayed, the largest first; counts and bytes are of all."""

    gone: tuple[BlobVerdict, ...]
    largest_kept: tuple[BlobVerdict, ...]
    gone_blobs: int
    gone_bytes: int
    kept_blobs: int
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerBytes:
    """What one owner fills: each distinct blob of its experts, and of what it is just publishing, once.

    `refused_bytes`: so many more were refused, a moment ago, for the quota's sake; 0: none.
    """

    owner: NodeId
    size_bytes: int
    refused_bytes: int = 0
