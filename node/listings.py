"""What would leave this machine, item by item: for `--dry-run`, before anything does."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, get_origin

from swarm.domain.growth import LeafSurvey, Survey
from swarm.domain.ids import LeafId
from swarm.domain.inference import GateTrial, Listing
from swarm.domain.tensors import ModuleEntry
from swarm.gating.combinations import option_grid, ridge_options
from swarm.gating.prototype_gate import TEMPERATURE_FACTORS
from swarm.gating.ridge import RIDGES
from swarm.rpc.convert import gate_trial_to_pb
from swarm.rpc.convert.growth import survey_to_pb

_MANIFEST_BYTES = 1500
"""A signed manifest without its modules' digests."""


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
    """Return what each later candidate gate makes a node send, at most."""
    options = [*ridge_options(len(RIDGES)), *option_grid(True, TEMPERATURE_FACTORS, True)]
    counts: dict[str, Any] = dict.fromkeys(_columns(), (samples,) * len(options))
    trial = GateTrial(samples=samples, **counts)
    return Listing(
        what="trial sums",
        detail=f"for each candidate gate, at most {_described(trial)}",
        size_bytes=gate_trial_to_pb(trial).ByteSize(),
        recipient="coordinator",
    )


def survey_listing(samples: int) -> Listing:
    """Return what a node sends where the swarm grows by itself, for each leaf of the gate."""
    leaf = LeafSurvey(leaf=LeafId("x" * 40), samples=samples, nll_sum=1.0, correct=samples, novel=samples)
    sent = Survey(gate_version=1 << 20, leaves=(leaf,), fresh=1 << 30, fresh_novel=1 << 30)
    return Listing(
        what="survey sums",
        detail="now and then, where growth is not manual, for each leaf that some of"
        f" {samples} own validation samples are routed to: how many, their summed loss, right and novel ones;"
        " once how many new training samples there are and how many of them are novel",
        size_bytes=survey_to_pb(sent).ByteSize(),
        recipient="coordinator",
    )


def sent_trial_listing(trial: GateTrial, version: int) -> Listing:
    """Return what a node sends of its trial of candidate gate `version`."""
    return Listing(
        what="trial sums",
        detail=f"candidate gate {version}: {_described(trial)}",
        size_bytes=gate_trial_to_pb(trial).ByteSize(),
        recipient="coordinator",
    )


def _columns() -> list[str]:
    """Return the names of a trial's lists, which have an entry for each combination."""
    return [field.name for field in fields(GateTrial) if get_origin(field.type) is tuple]


def _described(trial: GateTrial) -> str:
    """Return in words everything that a trial tells: whatever is added to the message is named here too."""
    columns = _columns()
    single = [field.name for field in fields(trial) if field.name not in (*columns, "samples")]
    each, once = (", ".join(names).replace("_", " ") for names in (columns, single))
    tried, samples = len(trial.nll_sum), trial.samples
    return f"{tried} combinations on {samples} own validation samples: {each} of each; {once}"
