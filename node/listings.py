"""What would leave this machine, item by item: for `--dry-run`, before anything does."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from swarm.domain.inference import Listing
from swarm.domain.tensors import ModuleEntry

_MANIFEST_BYTES = 1500
"""A signed manifest without its modules' digests."""
_TRIAL_BYTES = 8192
"""Six sums for each combination that a candidate is tried with; what was sent is listed exactly."""


def expert_listings(weights: str, leaf: str, modules: Sequence[ModuleEntry]) -> tuple[Listing, ...]:
    """Return the lines for an expert's modules, under the name `weights`, and for its manifest."""
    described = len(json.dumps([asdict(module) for module in modules]))
    return (
        Listing(
            what=weights,
            detail="the expert's modules",
            size_bytes=sum(module.size_bytes for module in modules),
            recipient="registry",
        ),
        Listing(
            what=f"{leaf} manifest",
            detail="class names, net, digests, validation metrics and cost; about",
            size_bytes=_MANIFEST_BYTES + described * 4 // 3,
            recipient="registry",
        ),
    )


def trial_listing(samples: int) -> Listing:
    """Return what each later candidate gate makes a node send."""
    return Listing(
        what="trial sums",
        detail=f"for each candidate gate: loss and correct answers over {samples} own validation samples",
        size_bytes=_TRIAL_BYTES,
        recipient="coordinator",
    )
