"""What each owner gives: an expert trained alone, its sums and prototypes, a correction of the root."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.absent_owners.world import (
    SCALE,
    Floats,
    Pool,
    Rows,
    World,
)
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Feed, Samples, derived_seed
from swarm.experts.training import TrainSettings, train_expert
from swarm.experts.weights import zero_head
from swarm.gating.analytic_gate import AnalyticGate
from swarm.gating.combinations import (
    CORRECTED_CLASS_TEMPERATURE,
)
from swarm.gating.prototype_gate import PrototypeGate, build_prototype_gate
from swarm.gating.regions import region_columns, summarise_leaf
from swarm.gating.ridge import RIDGES, OwnerSums, solve
from swarm.gating.sums import exact_gram, pack_triangle, quantised, target_columns

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expert:
    """One owner's net over its own classes, rows of all distinct names, and its sums."""

    net: nn.Module
    classes: Rows
    sums: OwnerSums


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """What all owners give, whatever classes are called: experts, W for each ridge, prototypes, and the
    experts' probabilities."""

    experts: Sequence[Expert]
    solved: NDArray[np.float64]
    prototypes: PrototypeGate
    on_validation: Sequence[Floats]
    on_test: Sequence[Floats]


def trained_experts(world: World, training: Pool, validation: Pool) -> list[Expert]:
    """Return each owner's expert, trained alone on its own samples, and its exact sums."""
    found, trunk, seed = [], world.trunk.reference, world.seed
    for owner in range(len(world.owner_domains)):
        rows = training.of(owner)
        classes = np.unique(training.samples.labels[rows])
        own = own_samples(training, rows, classes)
        torch.manual_seed(derived_seed(seed, "net", owner))
        net = build_net(net_reference(world.settings.net, own.input_shape, len(classes)))
        held_out = own_samples(validation, validation.of(owner), classes)
        settings = TrainSettings(steps=world.settings.steps, seed=derived_seed(seed, "train", owner))
        q = quantised(training.features[rows], trunk.fixed_point, trunk.has_constant)
        sums = OwnerSums(
            owner=f"{owner:02}",
            samples=len(rows),
            columns=target_columns(q, own.labels, len(classes)),
            exact=pack_triangle(exact_gram(q)),
        )
        net = train_expert(net, own, held_out, settings, device=CPU).net
        found.append(Expert(net=net, classes=classes, sums=sums))
    return found


def taught_by(world: World, training: Pool, validation: Pool) -> Taught:
    """Return what the owners of these samples give."""
    experts = trained_experts(world, training, validation)
    columns = region_columns(world.trunk.feature_size)
    summaries = [
        summarise_leaf(training.features[training.of(owner)][:, columns], seed=world.seed)
        for owner in range(len(experts))
    ]
    on_validation, on_test = (
        [torch.softmax(logits_of(each.net, pool.samples), 1).numpy() for each in experts]
        for pool in (validation, world.test)
    )
    return Taught(
        experts=experts,
        solved=solve([each.sums for each in experts], RIDGES, world.trunk.reference.fixed_point),
        prototypes=build_prototype_gate(summaries),
        on_validation=on_validation,
        on_test=on_test,
    )


def own_samples(pool: Pool, rows: Rows, classes: Rows, base: Floats | None = None) -> Samples:
    """Return the samples at rows, labelled by the columns of an expert's classes."""
    labels = np.searchsorted(classes, pool.samples.labels[rows])
    return Samples(inputs=pool.samples.inputs[rows], labels=labels, scale=SCALE, base_logits=base)


def trained_correction(
    world: World, pools: tuple[Pool, Pool], gate: AnalyticGate, owner: int, expert: Expert
) -> nn.Module | None:
    """Return what an expert adds to the root's scores, a net trained as `swarm train --refine` does; None
    where it does not lower the validation loss."""
    columns = gate.class_rows[gate.leaf_rows == owner]
    training, validation = (
        own_samples(
            pool,
            rows,
            expert.classes,
            gate.class_scores(gate.scores(pool.features[rows]))[:, columns] / CORRECTED_CLASS_TEMPERATURE,
        )
        for pool, rows in ((pool, pool.of(owner)) for pool in pools)
    )
    net = copy.deepcopy(expert.net).requires_grad_(True)
    if not zero_head(net, len(columns)):
        raise ValueError(f"{world.settings.net}: no linear output layer that can start from zero")
    own_seed = derived_seed(world.seed, "correction", owner)
    settings = TrainSettings(steps=world.settings.correction_steps, seed=own_seed)
    result = train_expert(net, training, validation, settings, device=CPU)
    assert validation.base_logits is not None and result.validation_nll is not None
    without = nn.functional.cross_entropy(
        torch.from_numpy(validation.base_logits), torch.from_numpy(validation.labels)
    )
    return result.net if result.validation_nll < float(without) else None


def logits_of(net: nn.Module, samples: Samples) -> torch.Tensor:
    """Return the net's logits, float32 [N, C]."""
    with torch.inference_mode():
        return torch.cat([net.eval()(batch.inputs) for batch in Feed(samples, CPU, 1024, 0)])
