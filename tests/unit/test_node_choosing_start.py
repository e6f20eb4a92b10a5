"""What a new expert starts from: a loan that ranks no worse than random weights has to show that it helps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from node import choosing_start
from node.choosing_start import Start, choose_start
from node.loans import Loan
from swarm.digests import digest_of
from swarm.domain.ids import ROOT_EXPERT, Digest, ExpertId
from swarm.experts.borrowing import RANDOM, Candidate, HeadStart, Ranked
from swarm.experts.nets import build_net, net_reference
from swarm.experts.samples import Samples
from swarm.experts.weights import pack_net

CLASSES = ("a", "b", "c")
REFERENCE = net_reference("mlp:8x1", (4,), len(CLASSES))
SAMPLES = Samples(
    inputs=np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32),
    labels=np.arange(12, dtype=np.int64) % len(CLASSES),
)
BLOBS: dict[Digest, bytes] = {}
HELPS = HeadStart(steps=1, borrowed=0.9, random=0.5, borrowed_nll=0.1, random_nll=0.9, flops=7)


def net(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_net(REFERENCE)


def loan(owner: str) -> Loan:
    modules, blobs = pack_net(net(sum(owner.encode())))
    BLOBS.update(blobs)
    return Loan(
        manifest=digest_of(owner.encode()),
        expert=ExpertId(f"{owner}.e1"),
        version=1,
        net=REFERENCE,
        class_names=CLASSES,
        modules=modules,
    )


def start(
    monkeypatch: pytest.MonkeyPatch, loans: list[Loan], trial: HeadStart = HELPS, **right: float
) -> Start:
    """Choose among loans whose nearest neighbours are right so often, by owner (`random`: random weights)."""

    def rank(candidates: list[Candidate], *_: object, **__: object) -> tuple[Ranked, ...]:
        found = [Ranked(name=c.name, accuracy=right[c.name.split(".")[0]], flops=10) for c in candidates]
        return tuple(sorted(found, key=lambda each: (-each.accuracy, each.name != RANDOM)))

    monkeypatch.setattr(choosing_start, "rank_candidates", rank)
    monkeypatch.setattr(choosing_start, "head_start", lambda *_, **__: trial)
    return choose_start(
        net(0),
        REFERENCE,
        CLASSES,
        loans,
        lambda blob: memoryview(BLOBS[blob]),
        SAMPLES,
        SAMPLES,
        import_paths=(),
        seed=0,
        tell=lambda _: None,
    )


def test_a_loan_that_ranks_below_random_weights_has_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    found = start(monkeypatch, [loan("ada"), loan("ben")], ada=0.79, ben=0.5, random=0.8)
    assert found.borrowed_from == "" and found.message.startswith("starts from random weights (")
    assert found.flops == 30 and "borrow_accuracy_at_1" not in found.metrics
    assert (found.metrics["borrow_knn"], found.metrics["borrow_knn_random"]) == (0.79, 0.8)


def test_random_weights_win_a_tie_in_ranking_and_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    equal = replace(HELPS, borrowed=0.5, borrowed_nll=0.9)
    found = start(monkeypatch, [loan("ada")], equal, ada=0.8, random=0.8)
    assert found.borrowed_from == "" and "did not help" in found.message


def test_a_loan_that_is_better_and_helps_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ada = loan("ada")
    found = start(monkeypatch, [ada, loan("ben")], ada=0.81, ben=0.5, random=0.8)
    assert found.borrowed_from == ada.manifest and found.message.startswith("borrows from ada.e1@1 (")
    assert found.flops == 37


def test_a_loan_that_is_better_and_does_not_help_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = replace(HELPS, borrowed=0.4)
    found = start(monkeypatch, [loan("ada")], trial, ada=0.9, random=0.8)
    assert found.borrowed_from == "" and "did not help" in found.message


def test_a_better_root_does_not_let_a_worse_loan_win(monkeypatch: pytest.MonkeyPatch) -> None:
    root = replace(loan("coordinator"), expert=ROOT_EXPERT)
    found = start(monkeypatch, [root, loan("ada")], coordinator=0.99, ada=0.79, random=0.8)
    assert found.borrowed_from == ""
