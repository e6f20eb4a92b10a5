"""The report's arithmetic and its deal of the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.cli.up.deal import deal
from swarm.cli.up.report import Cost, correct, lost_beyond_error, mean_row, render, row


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
