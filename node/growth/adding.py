"""What an add is made of: novel samples as they were when it was ordered, and what became of them."""

from pathlib import Path

import numpy as np

from node.array_files import save_arrays
from node.durable import link_durably
from node.growth.overlap import keep_held
from node.leaves import LeafBook
from node.stream.novelty import FRESH_FILE, NOVEL_FILE, forget_novel, novel_count
from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError, NotReadyError
from swarm.domain.growth import GrowthOrder
from swarm.domain.ids import NodeId
from swarm.domain.specification import Specification
from swarm.experts.factories import check_everybodys
from swarm.gating.common_regions import unpacked_regions
from swarm.gating.distances import Floats
from swarm.gating.regions import region_columns

_REGIONS_FILE = "regions.npz"


def check_add(order: GrowthOrder, node: NodeId, specification: Specification, novel: Path) -> None:
    """Raise by name unless a leaf can be added: NotReadyError for fewer novel samples than a leaf may stand
    for, InvalidInputError for what the specification does not allow. `novel` is where they are noted."""
    subject, least = f"add for {node}", specification.min_leaf_count
    if not novel.exists():
        raise NotReadyError(
            subject,
            found="nothing novel kept",
            expected="novel samples of a stream",
            remedy="swarm train --watch DIR",
        )
    count, most = novel_count(novel), specification.max_prototypes_per_leaf
    if count < least:
        raise NotReadyError(
            subject,
            found=f"{count} novel samples",
            expected=f"at least {least}, the least that a leaf may stand for",
            remedy="wait for more mega-batches of what is new: swarm stream report",
        )
    if int(order.options.get("k", "1")) > most:
        raise InvalidInputError(f"{subject}, k", found=order.options["k"], expected=f"at most {most}")
    if "net" in order.options:
        check_everybodys(order.options["net"], f"{subject}, net")
    if order.regions:
        _regions(order, specification)


def take_along(
    order: GrowthOrder,
    state: Path,
    book: LeafBook,
    before: Contribution,
    specification: Specification,
    folder: Path,
) -> None:
    """Keep in a folder what the leaf is to be made of: a stream goes on meanwhile."""
    for name in (FRESH_FILE, NOVEL_FILE):
        if (state / name).exists():
            link_durably(state / name, folder / name)
    if order.regions:
        save_arrays(folder / _REGIONS_FILE, {"regions": _regions(order, specification)})
    keep_held(state, book, (leaf.leaf for leaf in before.leaves), folder)


def forget_taken(state: Path, folder: Path) -> None:
    """Forget the novel samples that a leaf was made of, if the folder is an add's."""
    if (folder / NOVEL_FILE).exists():
        forget_novel(state, folder)


def regions_file(novel: Path) -> str:
    """Return the file of the common regions beside an add's novel samples, empty without."""
    path = novel.parent / _REGIONS_FILE
    return str(path) if path.exists() else ""


def read_regions(path: str) -> Floats | None:
    """Return the common regions float32 [K, R] of a job, None without."""
    if not path:
        return None
    with np.load(path, allow_pickle=False) as file:
        found: Floats = file["regions"]
    return found


def _regions(order: GrowthOrder, specification: Specification) -> Floats:
    columns = len(region_columns(specification.trunk.feature_size))
    return unpacked_regions(order.regions, columns, specification.max_prototypes_per_leaf)
