"""The report's arithmetic and its deal of the data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.cli.up.command import example_text
from swarm.cli.up.compared_nets import Net, NetTask, main, read_answers, write_task
from swarm.cli.up.comparisons import Averaged, equal_steps
from swarm.cli.up.deal import Deal, deal, large_enough
from swarm.cli.up.newcomer import borrow_note, lost_note
from swarm.cli.up.report import Cost, correct, in_order, lost_beyond_error, mean_row, render, row
from swarm.cli.up.stage import newest_contribution_mb, trunk_for
from swarm.data.dataset import Dataset
from swarm.domain.inference import Answer


def test_an_answer_is_right_when_its_most_probable_class_name_is_the_truth() -> None:
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1]], dtype=np.float32)
    assert correct(probabilities, ("cat", "dog"), ["dog", "dog"]).tolist() == [1.0, 0.0]


def test_the_standard_error_is_that_of_the_mean_over_queries() -> None:
    scores = np.array([1.0] * 75 + [0.0] * 25)
    made = row("swarm_top1", scores, Cost())
    assert made.accuracy == 0.75
    assert made.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 100))


def test_the_mean_of_nodes_averages_their_costs_and_keeps_the_error_over_queries() -> None:
    nodes = [np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])]
    made = mean_row("alone_mean", nodes, [Cost(train_flops=2.0), Cost(train_flops=4.0)])
    assert (made.accuracy, made.train_flops) == (0.5, 3.0)
    assert made.standard_error == pytest.approx(np.std([1.0, 0.5, 0.5, 0.0]) / 2)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_losses_count_only_beyond_one_paired_standard_error(pairs: list[tuple[bool, bool]]) -> None:
    before, after = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    lost, gained = sum(b and not a for b, a in pairs), sum(a and not b for b, a in pairs)
    assert lost_beyond_error(before, after) == (lost - gained > (lost + gained) ** 0.5)


def test_a_row_of_no_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="no queries"):
        row("swarm_top1", np.array([]), Cost())


def test_the_table_names_every_row_and_its_notes() -> None:
    shown = render([row("ensemble", np.array([1.0, 0.0]), Cost(bytes_sent=1234), "a note")])
    assert "ensemble" in shown and "1,234" in shown and "ensemble: a note" in shown


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 20), count=st.integers(3, 5))
def test_no_sample_is_dealt_twice_and_nobody_but_the_newcomer_has_the_new_class(
    seed: int, count: int
) -> None:
    dealt = deal("digits", "classes:4", count, seed)
    assert dealt.newcomer is not None and dealt.new_queries is not None
    parts = [*dealt.nodes.values(), dealt.newcomer]
    assert all(dealt.new_class not in part.class_names for part in dealt.nodes.values())
    assert all(len(part.class_names) == 4 for part in dealt.nodes.values())
    assert dealt.new_class in dealt.newcomer.class_names and len(dealt.newcomer.class_names) > 1
    assert dealt.new_class not in dealt.class_names
    rows = np.concatenate([part.inputs.reshape(len(part), -1) for part in parts])
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert set(dealt.class_names) == {name for part in dealt.nodes.values() for name in part.class_names}


def dataset(samples: int, classes: int = 2, seed: int = 0) -> Dataset:
    """Images whose brightness is their class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    noise = rng.integers(0, 40, (samples, 8, 8))
    inputs = (noise + 200 * labels[:, None, None] // max(classes - 1, 1)).astype(np.uint8)
    return Dataset(
        inputs=inputs,
        labels=labels.astype(np.int64),
        class_names=tuple(map(str, range(classes))),
        name="some",
        scale=1 / 255,
    )


def test_rows_are_shown_in_one_order_whenever_they_were_made() -> None:
    names = ["pooled_cnn", "swarm", "root", "fedavg", "alone:ben", "alone:ada", "ensemble"]
    made = in_order([row(name, np.array([1.0]), Cost()) for name in names])
    assert [item.name for item in made] == [
        *("alone:ben", "alone:ada", "ensemble", "fedavg", "root", "swarm", "pooled_cnn")
    ]


@given(st.floats(1e6, 1e13), st.floats(1e3, 1e9), st.integers(1, 50))
def test_equal_compute_is_met_to_half_a_step_a_round(total: float, one_step: float, rounds: int) -> None:
    steps = equal_steps(total, one_step, rounds)
    assert steps >= 1
    assert steps == 1 or abs(steps * one_step * rounds - total) <= one_step * rounds / 2 * (1 + 1e-9)


def test_the_trunk_grows_with_the_images_unless_it_is_named() -> None:
    assert trunk_for("auto", (8, 8)) == "randconv-sqrt:64"
    assert trunk_for("auto", (16, 16)) == trunk_for("auto", (32, 32, 3)) == "randconv-sqrt:400"
    assert trunk_for("auto", (784,)) == "randconv-sqrt:64"
    assert trunk_for("identity", (28, 28)) == "identity"


def test_without_a_newcomer_every_class_is_dealt() -> None:
    whole, kept = (deal("digits", "classes:2", 10, 0, newcomer=newcomer) for newcomer in (False, True))
    assert whole.newcomer is None and whole.new_class == "" and len(whole.class_names) == 10
    assert kept.newcomer is not None and len(kept.class_names) == 9
    holders = [name for data in whole.nodes.values() for name in data.class_names]
    assert all(holders.count(name) == 2 for name in whole.class_names)


def test_a_node_with_too_few_samples_is_left_out_and_told() -> None:
    nodes, left_out = large_enough({"ada": dataset(40), "ben": dataset(19)})
    assert list(nodes) == ["ada"] and list(left_out) == ["ben"]
    assert left_out["ben"].startswith("19 samples")


def test_an_answer_is_right_for_the_share_of_nodes_that_call_it_so() -> None:
    data = dataset(4)
    dealt = Deal(
        nodes={"ada": data, "ben": data, "cleo": data, "dan": data},
        class_names=("0", "1"),
        open_test=lambda: data,
        conventions={"dan": {"0": "1", "1": "0"}},
    )
    answers = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    assert dealt.scores(answers, ("0", "1")).tolist() == [0.75, 0.75, 0.75, 0.25]


def test_what_was_borrowed_is_told_with_how_much_it_helped() -> None:
    said = "train 5% eve.l1: borrows from ben.e1 (validation accuracy after 50 steps 0.9, from random 0.5)"
    note = borrow_note(said, {"borrow_flops": 1e6, "train_flops": 1e9})
    assert "borrows from ben.e1" in note and "borrow flops 1e+06" in note and "train" not in note
    assert borrow_note("nothing of the kind", {}) == "borrowed nothing"


def test_lost_answers_are_told_by_how_many_are_the_new_class_now() -> None:
    before, now = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    said = lost_note(before, now, ["9", "3", "9", "9"], "9")
    assert said == "; 1 of the 2 lost answers is now class 9, which the swarm did not know before"
    assert "; 2 of the 2 lost answers are now" in lost_note(before, now, ["9", "9", "1", "1"], "9")


def test_an_explained_answer_has_no_row_number_and_says_where_it_is_wrong() -> None:
    answer = Answer(
        class_names=("cat", "dog"),
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32),
        gate_version=1,
        degraded=(False, False),
    )
    assert example_text("dog", answer, 1) == "a query of class dog, explained:\n  dog 0.800, cat 0.200"
    assert example_text("dog", answer, 0).startswith("a query of class dog (answered wrongly), explained:")


def test_the_curve_of_federated_averaging_has_a_point_for_each_round(tmp_path: Path) -> None:
    arrays = tmp_path / "fedavg.npz"
    np.savez(arrays, round_accuracies=np.array([0.2, 0.5]))
    run = Averaged(
        name="fedavg",
        arrays=arrays,
        class_names=("a",),
        rounds=2,
        steps=5,
        train_flops=1.0,
        bytes_sent=8_000_000,
    )
    assert run.curve(nodes=4) == [(1.0, 0.2), (2.0, 0.5)]


def test_nets_to_compare_with_are_trained_and_loaded_in_a_process_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from swarm.experts.shared_net import SharedNet

    shared = SharedNet(factory="linear", input_shape=(8, 8), classes=3).initial(0)
    arrays = tmp_path / "fedavg.npz"
    np.savez(arrays, round_accuracies=np.array([0.5]), **shared)
    nets = (
        Net(name="fedavg", net="linear", arrays=str(arrays), classes=3),
        Net(name="pooled_total_budget", net="mlp:16x1", budget_flops=4e7),
        Net(name="pooled_equal_macs", budget_flops=5e8, query_flops=1e5),
        Net(name="pooled_cnn", net="cnn:4x8", budget_flops=2e8),
    )
    training, queries = dataset(200), dataset(30, seed=1)
    write_task(tmp_path / "task", NetTask(seed=0, nets=nets), training, queries.inputs)
    main(tmp_path / "task")
    told = capsys.readouterr()
    found = read_answers(tmp_path / "task", told.out)
    assert list(found) == [net.name for net in nets]
    answers, cost = found["fedavg"]
    assert answers.shape == (30, 3) and cost.train_flops == 0 and cost.inference_flops > 0
    for net in nets[1:]:
        name, (answers, cost) = net.name, found[net.name]
        assert answers.shape == (30, 2)
        assert cost.train_flops == pytest.approx(net.budget_flops, rel=0.05)
        assert correct(answers, training.class_names, ["0", "1"] * 15).mean() > 0.9, name
    assert found["pooled_equal_macs"][1].inference_flops == pytest.approx(1e5, rel=0.02)
    assert found["pooled_equal_macs"][1].net.startswith("mlp:")
    assert "pooled_cnn: cnn:4x8" in told.err


def test_a_contribution_weighs_what_its_newest_lines_say_each_once() -> None:
    lines = [
        {"what": "contribution", "digest": "a", "size_bytes": 9_000_000},
        {"what": "manifest", "digest": "m", "size_bytes": 5},
        {"what": "contribution", "digest": "b", "size_bytes": 1000},
        {"what": "columns", "digest": "b", "size_bytes": 500_000},
        {"what": "columns", "digest": "b", "size_bytes": 500_000},
    ]
    assert newest_contribution_mb(lines) == pytest.approx(0.501)
    assert newest_contribution_mb([]) == 0.0
