"""Train some of a node's experts anew, each by itself: a new version counts, whatever comes of the others."""

from collections.abc import Sequence
from pathlib import Path

from node.growth.job_making import JobMaker
from node.growth.jobs import GrowthJob
from node.growth.stages import Stages
from swarm.domain.errors import ConflictError, SwarmError
from swarm.domain.ids import LeafId


async def retrain_each(stages: Stages, folder: Path, maker: JobMaker, leaves: Sequence[LeafId]) -> None:
    """Train each leaf's expert anew and publish it, one after the other; each has a folder of its own, so
    that what a crash left done stays done.

    Where one cannot be trained the others still are; then what stood against it is raised, of several
    ConflictError with all that they came to.
    """
    refused: list[SwarmError] = []
    for leaf in leaves:

        async def job(leaf: LeafId = leaf) -> GrowthJob:
            return maker.job("retrain", [leaf], threads=stages.parts.threads)

        try:
            await stages.go(folder / f"retrain-{leaf}", job)
        except SwarmError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        raise ConflictError(
            f"retraining of {len(refused)} of {len(leaves)} experts",
            found="; ".join(str(error) for error in refused),
        )
