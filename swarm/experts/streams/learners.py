"""The learners of streams by name."""

from collections.abc import Sequence
from typing import get_args

from swarm.domain.errors import UsageError
from swarm.experts.streams.analytic import AnalyticLearner
from swarm.experts.streams.fitting import FitSettings
from swarm.experts.streams.fixed import FixedLearner, stack_of_mlps
from swarm.experts.streams.growing import Criterion, GrowingEnsembleLearner, GrowingMixtureLearner
from swarm.experts.streams.mlps import MeanLogits
from swarm.experts.streams.stream import StreamLearner

LEARNERS = ("sm", "ens", "umix", "gens", "gmoe", "root", "swarm")
MEMBERS = 5
"""Nets of Ens and UMix."""


def make_learner(
    name: str,
    *,
    input_shape: Sequence[int],
    classes: int,
    width: int,
    settings: FitSettings,
    seed: int,
    scale: float,
    offset: float = 0.0,
    members: int = MEMBERS,
    grow_every: int = 1,
    criterion: str = "loss",
    trunk: str = "randconv-sqrt:100",
) -> StreamLearner:
    """Return a fresh learner: sm, ens, umix, gens, gmoe, root or swarm.

    width is that of both hidden layers (of the correction for swarm; root has none), members those of ens and
    umix, grow_every and criterion gmoe's, trunk root's and swarm's. Raises UsageError for another name.
    """
    if name not in LEARNERS or criterion not in get_args(Criterion):
        expected = f"{', '.join(LEARNERS)}; {' or '.join(get_args(Criterion))}"
        raise UsageError("learner", found=f"{name}, {criterion}", expected=expected)
    if name in ("root", "swarm"):
        corrected = width if name == "swarm" else 0
        return AnalyticLearner(
            input_shape,
            classes,
            settings,
            seed=seed,
            trunk=trunk,
            scale=scale,
            offset=offset,
            width=corrected,
        )
    if name == "gens":
        return GrowingEnsembleLearner(input_shape, width, classes, settings, seed=seed)
    if name == "gmoe":
        chosen: Criterion = "usage" if criterion == "usage" else "loss"
        return GrowingMixtureLearner(
            input_shape, width, classes, settings, seed=seed, grow_every=grow_every, criterion=chosen
        )
    count = 1 if name == "sm" else members
    stack = stack_of_mlps(input_shape, width, classes, members=count, seed=seed)
    return FixedLearner(MeanLogits(stack) if name == "umix" else stack, settings, seed=seed)
