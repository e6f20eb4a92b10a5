"""Whether a node may be asked to add a leaf, and by what prototypes: pure rules."""

from collections.abc import Mapping

from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError, NotFoundError, NotReadyError
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.experts.factories import check_everybodys
from swarm.gating.common_regions import unpacked_regions
from swarm.gating.regions import region_columns

COMMON_REGIONS = "common_regions"
"""The evidence of an add that says by how many regions of several nodes its leaf is to be."""


def checked_add(
    owner: NodeId,
    given: Contribution | None,
    options: Mapping[str, str],
    regions: bytes,
    specification: Specification,
    *,
    was_here: bool,
) -> dict[str, float]:
    """Return what the record of an add says of its regions.

    `given` is what the node has in the gate, `was_here`: it is connected, or was. Raises NotFoundError for
    nobody's name, NotReadyError for a node that gave the gate nothing yet, InvalidInputError for more
    prototypes than a leaf may have, for regions that are none, and for a net that not everybody can build.
    """
    subject, most = f"add for {owner}", specification.max_prototypes_per_leaf
    if given is None and not was_here:
        raise NotFoundError(
            f"node {owner}",
            found="none of that name in the gate, and none that is connected",
            expected="a node that has a leaf",
            remedy="see who is: swarm status",
        )
    if given is None:
        raise NotReadyError(
            subject,
            found="no leaf of it in the gate",
            expected="a node that has one: it adds to what it gave",
            remedy="on the node: swarm train --watch DIR",
        )
    if int(options.get("k", "1")) > most:
        raise InvalidInputError(
            f"{subject}, k",
            found=options["k"],
            expected=f"at most {most}, the most prototypes of a leaf here",
        )
    if "net" in options:
        check_everybodys(options["net"], f"{subject}, net")
    if not regions:
        return {}
    columns = len(region_columns(specification.trunk.feature_size))
    return {COMMON_REGIONS: float(len(unpacked_regions(regions, columns, most)))}
