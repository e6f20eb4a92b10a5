"""The cases of `swarm bench alma`: learners over a stream of mega-batches, by width and waiting time.

Setting: MNIST of Caccia et al. 2022: MLPs with two hidden layers of width 4 to 64, Adadelta at rate 1, batch
128, a tenth for validation, early stopping. Fashion-MNIST takes the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swarm.cli.bench.collections import Collection, idx_collection
from swarm.cli.bench.growth.jobs import Job, Run
from swarm.domain.errors import UsageError
from swarm.domain.streams import cumulative_error, cumulative_flops, cumulative_memory

TITLES = {
    "sm": "SM",
    "ens": "Ens",
    "umix": "UMix",
    "gens": "gEns",
    "gmoe": "gMoE",
    "root": "root",
    "swarm": "swarm",
}
GROWING = ("gens", "gmoe")
"""They grow after their first stage: with one stage they are SM."""
SMALL, LARGE = 4, 64
FILTERS = 50
NEEDED = ("collection", "learner", "width", "wait", "replay", "cer", "final_error", "parameters")
"""Fields without which a run is no run of this benchmark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of a collection arrives in how many mega-batches, and which cases there are of it.

    widths by learner; replay lists (learner, width, waits). gMoE grows about `growths` times in all.
    """

    samples: int
    tests: int
    mega_batches: int
    waits: tuple[int, ...]
    replay_waits: tuple[int, ...]
    widths: dict[str, dict[str, tuple[int, ...]]]
    replay: dict[str, dict[str, tuple[int, ...]]]
    epochs: int = 100
    patience: int = 10
    growths: int = 10


_NETS: dict[str, tuple[int, ...]] = {
    "sm": (4, 16, 64),
    "ens": (4, 64),
    "umix": (4, 64),
    "gens": (4, 64),
    "gmoe": (4, 64),
    "root": (0,),
    "swarm": (64,),
}
_FASHION: dict[str, tuple[int, ...]] = {"sm": (4, 16, 64), "ens": (64,), "gmoe": (4,), "root": (0,)}
_ALL: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("sm", "ens", "umix", "gens", "gmoe"), (4, 8, 16, 32, 64)),
    "root": (0,),
    "swarm": (64,),
}
DEFAULT = Scale(
    samples=12_000,
    tests=10_000,
    mega_batches=100,
    waits=(1, 5, 10, 50, 100),
    replay_waits=(10, 50),
    widths={"mnist": _NETS, "fashion-mnist": _FASHION},
    replay={"mnist": {"sm": (4, 64)}, "fashion-mnist": {"sm": (4,)}},
)
FULL = Scale(
    samples=60_000,
    tests=10_000,
    mega_batches=500,
    waits=(1, 5, 10, 50, 100, 500),
    replay_waits=(5, 10, 50, 100),
    widths={"mnist": _ALL, "fashion-mnist": _ALL},
    replay={name: {"sm": (4, 16, 64), "ens": (4, 64)} for name in ("mnist", "fashion-mnist")},
)
QUICK = Scale(
    samples=240,
    tests=100,
    mega_batches=6,
    waits=(1, 3, 6),
    replay_waits=(3,),
    widths={
        "mnist": {**dict.fromkeys(("sm", "ens", "umix", "gens", "gmoe"), (4,)), "root": (0,), "swarm": (4,)}
    },
    replay={"mnist": {"sm": (4,)}},
    epochs=2,
    patience=1,
    growths=2,
)
QUICK_FILTERS = 4


def case_name(collection: str, learner: str, width: int, wait: int, *, replay: bool) -> str:
    """Return a case's name, as `mnist-sm4-w10-replay`; a root has no width."""
    return f"{collection}-{learner}{width or ''}-w{wait}{'-replay' if replay else ''}"


def alma_jobs(
    scale: Scale, *, data_dir: Path, seeds: Sequence[int], only: Sequence[str], filters: int = FILTERS
) -> list[Job]:
    """Return the jobs of a scale, by collection and seed, dearest first.

    `only` names cases, learners or collections.
    Raises UsageError for a name that is none of these.
    """
    jobs, known = [], set[str]()
    for collection, widths in scale.widths.items():
        plain = [
            (name, width, wait, False)
            for name, own in widths.items()
            for width in own
            for wait in scale.waits
            if name not in GROWING or wait < scale.mega_batches
        ]
        replayed = [
            (name, width, wait, True)
            for name, own in scale.replay.get(collection, {}).items()
            for width in own
            for wait in scale.replay_waits
        ]
        for learner, width, wait, replay in plain + replayed:
            name = case_name(collection, learner, width, wait, replay=replay)
            known |= {name, learner, collection}
            if only and not {name, learner, collection} & set(only):
                continue
            settings = {
                "collection": collection,
                "learner": learner,
                "width": width,
                "wait": wait,
                "replay": replay,
                "samples": scale.samples,
                "tests": scale.tests,
                "mega_batches": scale.mega_batches,
                "epochs": scale.epochs,
                "patience": scale.patience,
                "grow_every": max(1, scale.mega_batches // scale.growths // wait),
                "filters": filters,
            }
            jobs += [
                Job(case=name, seed=seed, work=stream_run, settings=settings, data_dir=str(data_dir))
                for seed in seeds
            ]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise UsageError("--only", found=unknown[0], expected=f"{', '.join(sorted(known))}")
    order = list(scale.widths)
    return sorted(jobs, key=lambda job: (order.index(job.settings["collection"]), job.seed, -_dearness(job)))


def _dearness(job: Job) -> float:
    """Return about how long a job takes, beside others."""
    of = job.settings
    members = {"ens": 5, "umix": 5, "gmoe": 4, "swarm": 3}.get(of["learner"], 1)
    stages = of["mega_batches"] / of["wait"]
    return float((20 + of["width"]) * members * (stages / 2 if of["replay"] else 1) + stages / 10)


def stream_run(
    *,
    data_dir: Path,
    seed: int,
    collection: str,
    learner: str,
    width: int,
    wait: int,
    replay: bool,
    samples: int,
    tests: int,
    mega_batches: int,
    epochs: int,
    patience: int,
    grow_every: int,
    filters: int,
) -> Run:
    """Lead one learner through one stream; return what it cost. seed orders the samples and draws nets."""
    from swarm.experts.samples import Samples
    from swarm.experts.streams.fitting import FitSettings
    from swarm.experts.streams.learners import make_learner
    from swarm.experts.streams.stream import make_stream, run_stream

    found = idx_collection(data_dir, collection)
    rows, test_rows = _drawn(found, samples, tests, seed)
    train = Samples(inputs=found.inputs[rows], labels=found.labels[rows], scale=1 / 255)
    test = Samples(inputs=found.test_inputs[test_rows], labels=found.test_labels[test_rows], scale=1 / 255)
    classes = int(found.labels.max()) + 1
    stream = make_stream(train, test, classes=classes, count=mega_batches, seed=seed)
    made = make_learner(
        learner,
        input_shape=train.input_shape,
        classes=classes,
        width=width,
        settings=FitSettings(epochs=epochs, patience=patience),
        seed=seed,
        scale=1 / 255,
        grow_every=grow_every,
        trunk=f"randconv-sqrt:{filters}",
    )
    started = time.process_time()
    records = run_stream(made, stream, wait=wait, replay=replay, clock=time.process_time)
    flops, changes = cumulative_flops(records), getattr(made, "split_loss_changes", [])
    measured: dict[str, Any] = {
        "collection": collection,
        "learner": learner,
        "width": width,
        "wait": wait,
        "replay": replay,
        "cer": cumulative_error(records),
        "final_error": records[-1].error,
        "memory_sum": cumulative_memory(records),
        "parameters": records[-1].parameters,
        "flops_forward": flops.forward,
        "flops_total": flops.total,
        "learning_cpu_s": round(sum(record.seconds for record in records), 3),
        "cpu_s": round(time.process_time() - started, 3),
        "errors": [round(record.error, 5) for record in records],
    }
    return measured | ({"split_loss_change": max(changes)} if changes else {})


def _drawn(
    found: Collection, samples: int, tests: int, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(found.labels))[:samples])
    return rows, np.arange(min(tests, len(found.test_labels)))
