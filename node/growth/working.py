"""What the process that grows does with a job: one task, told step by step."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from node.growth.add_task import add_leaf
from node.growth.bench import GrowthBench
from node.growth.expert_task import retrain, train_child
from node.growth.jobs import GrowthJob, GrowthResult, GrowthTask
from node.growth.merge_task import merge_leaves
from node.growth.regate_task import regate
from node.growth.remove_task import remove_leaves
from node.growth.split_task import split_leaf
from node.preparing import Report

_TASKS: Mapping[GrowthTask, Callable[[GrowthBench], GrowthResult]] = {
    "split": split_leaf,
    "child": train_child,
    "regate": regate,
    "merge": merge_leaves,
    "remove": remove_leaves,
    "retrain": retrain,
    "add": add_leaf,
}


def grow(job: GrowthJob, folder: Path, report: Report) -> GrowthResult:
    """Do a job's task in its folder and return its result, which the caller writes.

    Raises by name what stands against it: samples that are gone or changed, parts that are too small.
    """
    torch.set_num_threads(max(1, job.threads))
    return _TASKS[job.task](GrowthBench(job=job, folder=folder, report=report))
