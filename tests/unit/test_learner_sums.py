"""What a node sums up: the pooled sums exactly, or as much as a budget of bytes allows."""

from pathlib import Path

import numpy as np
import pytest

from node.sums import GramSums, LeafSums, chosen_rank, joined, summed
from swarm.domain.errors import InvalidInputError
from swarm.gating.ridge import OwnerSums, check_sums
from swarm.gating.sums import compact_bytes, exact_bytes, exact_gram, pack_triangle, target_columns

FIXED_POINT = 32.0


def samples(count: int, seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return features int16 [count, size] with a constant, of low rank with some noise, and two labels."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(0, 12, (6, size))
    q = rng.normal(0, 1, (count, 6)) @ mixing + rng.normal(0, 3, (count, size)) + 20
    q = np.rint(q).astype(np.int16)
    q[:, -1] = FIXED_POINT
    return q, (np.arange(count) % 2).astype(np.int64)


def leaf(count: int, seed: int, rank: int) -> LeafSums:
    q, labels = samples(count, seed)
    return LeafSums(columns=target_columns(q, labels, 2), f=summed(q, rank, 0)[0])


def owner(parts: list[LeafSums], f: GramSums) -> OwnerSums:
    columns = np.concatenate([part.columns for part in parts], axis=1)
    return OwnerSums(owner="rose", samples=f.samples, columns=columns, exact=f.gram, compact=f.compact)


def dense(f: GramSums) -> np.ndarray:
    assert f.compact is not None
    factors = f.compact.scaled()
    return factors @ factors.T + np.diag(f.compact.diagonal.astype(np.float64))


def test_exact_leaves_join_to_the_pooled_sums_to_the_bit() -> None:
    parts = [leaf(300, 1, 0), leaf(120, 2, 0), leaf(77, 3, 0)]
    pooled = np.concatenate([samples(count, seed)[0] for count, seed in ((300, 1), (120, 2), (77, 3))])
    f, _ = joined(parts, 0, seed=0)
    assert f.samples == 497 and f.gram is not None
    np.testing.assert_array_equal(f.gram, pack_triangle(exact_gram(pooled)))
    check_sums(owner(parts, f), np.array([150, 150, 60, 60, 39, 38]), FIXED_POINT)


@pytest.mark.parametrize("ranks", [(12, 12, 12), (0, 12, 12), (0, 0, 0), (30, 9, 0)])
def test_compact_sums_join_from_any_mixture_near_the_pooled_ones_and_pass_the_check(
    ranks: tuple[int, ...],
) -> None:
    sizes = ((300, 1), (120, 2), (77, 3))
    parts = [leaf(count, seed, rank) for (count, seed), rank in zip(sizes, ranks, strict=True)]
    pooled = np.concatenate([samples(count, seed)[0] for count, seed in sizes]).astype(np.float64)
    truth = pooled.T @ pooled
    f, flops = joined(parts, 12, seed=0)
    assert f.rank == 12 and f.samples == 497 and flops > 0
    found = dense(f)
    direct, _ = summed(pooled.astype(np.int16), 12, 0)
    scale = np.linalg.norm(truth)
    assert np.linalg.norm(found - truth) / scale < 1.5 * np.linalg.norm(dense(direct) - truth) / scale + 1e-3
    np.testing.assert_allclose(np.diag(found), np.diag(truth), rtol=1e-3)
    np.testing.assert_allclose(found[-1], truth[-1], rtol=2e-3)
    check_sums(owner(parts, f), np.array([150, 150, 60, 60, 39, 38]), FIXED_POINT)


def test_one_leaf_is_given_as_it_was_summed() -> None:
    part = leaf(120, 1, 9)
    assert joined([part], 9, seed=0) == (part.f, 0)


def test_a_compact_leaf_cannot_be_given_exactly() -> None:
    with pytest.raises(InvalidInputError, match="compact"):
        joined([leaf(100, 1, 0), leaf(100, 2, 5)], 0, seed=0)


def test_sums_come_back_from_their_file_and_others_are_none(tmp_path: Path) -> None:
    for rank in (0, 7):
        kept = leaf(90, 1, rank)
        kept.save(tmp_path / "leaf.npz")
        found = LeafSums.read(tmp_path / "leaf.npz", 40)
        assert found is not None and found.f.samples == 90 and found.f.rank == rank
        np.testing.assert_array_equal(found.columns, kept.columns)
        for name, array in kept.f.arrays().items():
            np.testing.assert_array_equal(found.f.arrays()[name], array)
        assert LeafSums.read(tmp_path / "leaf.npz", 41) is None
    (tmp_path / "leaf.npz").write_bytes(b"torn")
    assert LeafSums.read(tmp_path / "leaf.npz", 40) is None
    assert LeafSums.read(tmp_path / "nowhere.npz", 40) is None


def test_the_budget_decides_the_form() -> None:
    size = 1025
    assert chosen_rank("auto", 4.0, size, 100_000) == 0
    assert chosen_rank("exact", 0.001, size, 100_000) == 0
    rank = chosen_rank("auto", 0.8, size, 100_000)
    assert exact_bytes(size) > 8e5 and 1 <= rank < size
    assert compact_bytes(size, rank) + 100_000 <= 800_000 < compact_bytes(size, rank + 2) + 105_000
    assert chosen_rank("compact", 4.0, size, 100_000) == size
    with pytest.raises(InvalidInputError, match="--sums-mb"):
        chosen_rank("compact", 0.01, size, 100_000)
    for nonsense in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match="megabytes"):
            chosen_rank("auto", nonsense, size, 0)
