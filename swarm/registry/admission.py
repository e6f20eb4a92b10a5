"""What a manifest must be before it is committed; every refusal names the expert's version and the reason."""

from collections.abc import Callable, Sequence
from typing import Final

from swarm.domain.errors import (
    InvalidInputError,
    NotAuthorisedError,
    NotFoundError,
    SwarmError,
    TrunkMismatchError,
    VerificationError,
)
from swarm.domain.growth import MAX_EXPERTS
from swarm.domain.ids import ROOT_EXPERT, Digest, NodeId
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification
from swarm.modules import check_module

MAX_MANIFEST_BYTES: Final = 1 << 20
"""So large a signed manifest may be."""
MAX_TOMBSTONE_BYTES: Final = 16 << 10
"""So large a signed withdrawal may be, which is kept for ever: an id and a reason."""
MAX_PARENTS: Final = MAX_EXPERTS
"""So many versions may one come from: as many as one merge joins."""


def check_size(envelope: bytes) -> None:
    """Raise InvalidInputError for a signed manifest that is larger than any has to be."""
    _check_size("signed manifest", envelope, MAX_MANIFEST_BYTES)


def check_tombstone_size(envelope: bytes) -> None:
    """Raise InvalidInputError for a signed withdrawal that is larger than any has to be."""
    _check_size("signed withdrawal", envelope, MAX_TOMBSTONE_BYTES)


def check_committer(caller: Caller, manifest: Manifest) -> None:
    """Raise NotAuthorisedError unless caller may commit: a node its own, the coordinator the root."""
    if caller.role == "coordinator" and manifest.expert != ROOT_EXPERT:
        raise NotAuthorisedError(
            f"{manifest.expert}@{manifest.version}",
            found="a commit of the coordinator",
            expected=f"its owner, {manifest.owner}",
            remedy="the coordinator commits its own root only",
        )
    check_owner(caller, manifest.owner, f"{manifest.expert}@{manifest.version}")


def check_owner(caller: Caller, owner: NodeId, subject: str) -> None:
    """Raise NotAuthorisedError unless caller is the owner; the coordinator and operators act for others."""
    if caller.role == "node" and caller.id != owner:
        raise NotAuthorisedError(
            subject,
            found=f"a request of {caller.id}",
            expected=f"its owner, {owner}",
            remedy="a node publishes and withdraws its own experts only",
        )


def check_fits(manifest: Manifest, specification: Specification) -> None:
    """Raise unless the manifest belongs to this swarm, its trunk, its inputs and its classes."""
    subject = f"{manifest.expert}@{manifest.version}"
    if manifest.swarm != specification.swarm:
        raise InvalidInputError(
            subject, found=f"swarm {manifest.swarm}", expected=f"swarm {specification.swarm}"
        )
    if manifest.trunk != specification.trunk.digest:
        raise TrunkMismatchError(
            subject,
            found=f"trunk {manifest.trunk[:12]}",
            expected=f"trunk {specification.trunk.digest[:12]} of specification {specification.version}",
            remedy="fetch the swarm's specification and train again",
        )
    if manifest.net.input_shape != specification.input_shape:
        raise InvalidInputError(
            subject,
            found=f"input shape {list(manifest.net.input_shape)}",
            expected=f"{list(specification.input_shape)}",
        )
    if len(manifest.parents) > MAX_PARENTS:
        raise InvalidInputError(
            f"{subject}: parents", found=str(len(manifest.parents)), expected=f"at most {MAX_PARENTS}"
        )
    try:
        specification.with_classes(manifest.class_names)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{subject}: {error.subject}", found=error.found, expected=error.expected, remedy=error.remedy
        ) from None


def check_fitted(manifest: Manifest, specifications: Sequence[Specification]) -> None:
    """Raise unless the manifest belongs to one of the specifications that the swarm has had; what is said is
    why not to the first."""
    refusals = []
    for each in specifications:
        try:
            check_fits(manifest, each)
        except SwarmError as error:
            refusals.append(error)
        else:
            return
    raise refusals[0]


def check_present(manifest: Manifest, missing: Callable[[tuple[Digest, ...]], list[Digest]]) -> None:
    """Raise NotFoundError, naming the first, where blobs of the manifest are not stored yet."""
    lacking = missing(manifest.blobs())
    if lacking:
        raise NotFoundError(
            f"{manifest.expert}@{manifest.version}: blob {lacking[0][:12]}",
            found=f"{len(lacking)} of {len(manifest.blobs())} blobs missing or damaged",
            expected="all bytes before the manifest",
            remedy="publish the missing blobs, then commit again",
        )


def check_modules(manifest: Manifest, read: Callable[[Digest], memoryview]) -> None:
    """Raise VerificationError unless every module's bytes are what the manifest says, and finite."""
    subject = f"{manifest.expert}@{manifest.version}"
    corrections = manifest.correction.modules if manifest.correction is not None else ()
    for modules in (manifest.modules, corrections):
        names = [module.name for module in modules]
        if len(set(names)) != len(names):
            raise VerificationError(subject, found="a module name twice", expected="distinct names")
    for module in (*manifest.modules, *corrections):
        try:
            check_module(module, read)
        except VerificationError as error:
            raise VerificationError(
                f"{subject}: {error.subject}", found=error.found, expected=error.expected, remedy=error.remedy
            ) from error


def _check_size(what: str, envelope: bytes, most: int) -> None:
    if len(envelope) > most:
        raise InvalidInputError(what, found=f"{len(envelope)} bytes", expected=f"at most {most}")
