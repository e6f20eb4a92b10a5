"""The solution is a pure function of the sums, equal to the one over pooled data; false sums are named."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.gating.ridge import RIDGES, OwnerSums, check_sums, owner_weights, solve
from swarm.gating.sums import (
    CompactSums,
    compact_sums,
    exact_gram,
    pack_triangle,
    quantised,
    target_columns,
    unpack_triangle,
)

FIXED_POINT, SIZE, CLASSES = 32.0, 11, 3


def samples(owner: int, count: int = 60, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(owner)
    mixing = (
        np.random.default_rng(99).normal(size=(size - 1, size - 1)) * np.geomspace(2, 0.05, size - 1)[:, None]
    )
    found = rng.normal(size=(count, size - 1)) @ mixing + rng.normal(size=size - 1)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, count - CLASSES)])
    return quantised(found.astype(np.float32), FIXED_POINT, False), labels


def exact(owner: int, count: int = 60, size: int = SIZE) -> OwnerSums:
    q, labels = samples(owner, count, size)
    return OwnerSums(
        owner=f"node-{owner}",
        samples=len(q),
        columns=target_columns(q, labels, CLASSES),
        exact=pack_triangle(exact_gram(q)),
    )


def compact(owner: int, rank: int, count: int = 60, size: int = SIZE) -> OwnerSums:
    q, labels = samples(owner, count, size)
    return OwnerSums(
        owner=f"node-{owner}",
        samples=len(q),
        columns=target_columns(q, labels, CLASSES),
        compact=compact_sums(q, rank),
    )


def counts(owner: int, count: int = 60) -> np.ndarray:
    return np.bincount(samples(owner, count)[1], minlength=CLASSES)


OWNERS = {row: exact(row) for row in range(6)}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 5)), max_size=40),
    st.sets(st.integers(0, 5), min_size=1),
)
def test_after_any_history_the_solution_is_that_of_the_owners_who_remain_to_the_bit(
    history: list[tuple[str, int]], stay: set[int]
) -> None:
    present: dict[int, OwnerSums] = {}
    for act, row in history:
        if act == "join":
            present[row] = OWNERS[row]
        else:
            present.pop(row, None)
        if present:
            solve(list(present.values()), (300.0,), FIXED_POINT)
    present = {row: each for row, each in present.items() if row in stay}
    for row in stay:
        present.setdefault(row, OWNERS[row])
    after = solve(sorted(present.values(), key=lambda each: each.owner), RIDGES, FIXED_POINT)
    never = solve([exact(row) for row in sorted(stay)], RIDGES, FIXED_POINT)
    assert after.tobytes() == never.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.permutations(list(range(6))))
def test_the_order_of_owners_moves_columns_and_changes_no_bit(order: list[int]) -> None:
    found = solve([OWNERS[row] for row in order], (300.0,), FIXED_POINT)
    plain = solve([OWNERS[row] for row in range(6)], (300.0,), FIXED_POINT)
    places = np.concatenate([np.arange(row * CLASSES, (row + 1) * CLASSES) for row in order])
    assert found.tobytes() == plain[:, :, places].tobytes()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(4, 90), min_size=1, max_size=5))
def test_the_solution_from_sums_is_the_pooled_one(sizes: list[int]) -> None:
    weights = owner_weights(sizes)
    parts = [samples(row, size) for row, size in enumerate(sizes)]
    targets = np.zeros((sum(sizes), CLASSES * len(sizes)))
    start = 0
    for row, (q, labels) in enumerate(parts):
        targets[np.arange(start, start + len(q)), row * CLASSES + labels] = 1
        start += len(q)
    scale = np.repeat(np.sqrt(weights), sizes)[:, None]
    real = np.concatenate([q for q, _ in parts]) / FIXED_POINT * scale
    found = solve([exact(row, size) for row, size in enumerate(sizes)], RIDGES, FIXED_POINT)
    for ridge, w in zip(RIDGES, found, strict=True):
        pooled = np.linalg.solve(real.T @ real + ridge * np.eye(SIZE), real.T @ (targets * scale))
        assert np.allclose(w * FIXED_POINT, pooled, rtol=1e-9, atol=1e-9 * np.abs(pooled).max())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_after_a_split_the_childrens_scores_sum_to_their_parents(seed: int) -> None:
    q, labels = samples(0)
    child = np.random.default_rng(seed).integers(0, 2, len(q))
    first, second = (target_columns(q[child == row], labels[child == row], CLASSES) for row in (0, 1))
    split = replace(OWNERS[0], columns=np.concatenate([first, second], axis=1))
    before = solve([OWNERS[0], OWNERS[1]], (30.0,), FIXED_POINT)[0]
    after = solve([split, OWNERS[1]], (30.0,), FIXED_POINT)[0]
    inputs = samples(7)[0].astype(float)
    parents, children = inputs @ before, inputs @ after
    merged = children[:, :CLASSES] + children[:, CLASSES : 2 * CLASSES]
    assert np.abs(merged - parents[:, :CLASSES]).max() < 1e-9
    assert np.abs(children[:, 2 * CLASSES :] - parents[:, CLASSES:]).max() < 1e-9


def test_sums_are_loaded_when_needed_one_owner_after_the_other() -> None:
    asked: list[int] = []

    def lazy(row: int) -> OwnerSums:
        def load() -> np.ndarray:
            asked.append(row)
            packed = OWNERS[row].exact
            assert packed is not None
            return packed

        return replace(OWNERS[row], exact=None, load=load)

    found = solve([lazy(row) for row in range(4)], RIDGES, FIXED_POINT)
    assert asked == [0, 1, 2, 3]
    assert found.tobytes() == solve([OWNERS[row] for row in range(4)], RIDGES, FIXED_POINT).tobytes()


@pytest.mark.parametrize("sizes", [(60, 60, 60), (30, 30, 400)])
def test_factors_and_the_dense_factorisation_agree(sizes: tuple[int, ...]) -> None:
    size = 80
    small = [compact(row, 4, count, size) for row, count in enumerate(sizes)]
    dense = [
        OwnerSums(
            owner=each.owner, samples=each.samples, columns=each.columns, compact=padded(each.compact, 60)
        )
        for each in small
    ]
    by_factors, by_cholesky = (solve(owners, RIDGES, FIXED_POINT) for owners in (small, dense))
    assert np.abs(by_factors - by_cholesky).max() <= 1e-6 * np.abs(by_cholesky).max()
    gram = np.zeros((size, size))
    for each, weight in zip(small, owner_weights(sizes), strict=True):
        assert each.compact is not None
        gram += weight * (each.compact.scaled() @ each.compact.scaled().T + np.diag(each.compact.diagonal))
    targets = np.concatenate(
        [w * each.columns for each, w in zip(small, owner_weights(sizes), strict=True)], axis=1
    )
    plain = np.linalg.solve(gram + RIDGES[0] * FIXED_POINT**2 * np.eye(size), targets)
    assert np.allclose(by_factors[0], plain, rtol=1e-6, atol=1e-6 * np.abs(plain).max())


def padded(sums: CompactSums | None, rank: int) -> CompactSums:
    """The same sums with factors of nothing, so many that the dense way is taken."""
    assert sums is not None
    more = rank - sums.rank
    return CompactSums(
        factors=sums.factors,
        minor_factors=np.pad(sums.minor_factors, ((0, 0), (0, more))),
        factor_scales=np.pad(sums.factor_scales, (0, more)),
        diagonal=sums.diagonal,
    )


def test_exact_and_compact_owners_go_together() -> None:
    mixed = solve([OWNERS[0], compact(1, SIZE), OWNERS[2]], RIDGES, FIXED_POINT)
    pure = solve([OWNERS[0], OWNERS[1], OWNERS[2]], RIDGES, FIXED_POINT)
    assert np.abs(mixed - pure).max() <= 1e-3 * np.abs(pure).max()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=12))
def test_nobody_counts_for_more_than_four_medians_of_samples(sizes: list[int]) -> None:
    weights, median = owner_weights(sizes), sorted(sizes)[(len(sizes) - 1) // 2]
    assert (weights > 0).all() and (weights * sizes).max() <= 4.001 * median
    if max(sizes) <= 4 * median:
        assert (weights == 1).all()
    else:
        assert weights * sizes == pytest.approx(median)


def test_one_owner_with_twenty_times_the_data_counts_as_one_of_ten() -> None:
    weighted = owner_weights([20_000] + [1000] * 9) * np.array([20_000] + [1000] * 9)
    assert np.allclose(weighted, 1000)


def test_what_an_owner_claims_does_not_change_how_much_the_ridge_weighs() -> None:
    assert np.array_equal(owner_weights([10**9, 100, 100, 100])[1:], owner_weights([500, 100, 100, 100])[1:])


def test_owners_or_ridges_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="owners: found none"):
        solve([], RIDGES, FIXED_POINT)
    with pytest.raises(InvalidInputError, match="one twice"):
        solve([OWNERS[0], OWNERS[0]], RIDGES, FIXED_POINT)
    for ridges in ((), (0.0,), (np.nan,)):
        with pytest.raises(InvalidInputError, match="ridges"):
            solve([OWNERS[0]], ridges, FIXED_POINT)
    with pytest.raises(ShapeMismatchError, match="node-1"):
        solve([OWNERS[0], exact(1, size=7)], RIDGES, FIXED_POINT)
    with pytest.raises(InvalidInputError, match="no F'F or two"):
        replace(OWNERS[0], exact=None)
    with pytest.raises(InvalidInputError, match="at least 1"):
        owner_weights([10, 0])


@pytest.mark.parametrize("row", range(6))
def test_true_sums_pass(row: int) -> None:
    check_sums(exact(row), counts(row), FIXED_POINT)
    for rank in (1, 3, 40):
        check_sums(compact(row, rank), counts(row), FIXED_POINT)


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 40), st.integers(2, 9), st.integers(1, 8), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_true_sums_of_any_features_pass(count: int, size: int, rank: int, spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(count, size)) * spread ** rng.uniform(-1, 1, size)
    q = quantised(found.astype(np.float32), FIXED_POINT, False)
    labels = np.concatenate([np.arange(CLASSES), rng.integers(0, CLASSES, count - CLASSES)])
    columns, per_class = target_columns(q, labels, CLASSES), np.bincount(labels)
    for form in ({"exact": pack_triangle(exact_gram(q))}, {"compact": compact_sums(q, rank)}):
        check_sums(OwnerSums(owner="node-1", samples=count, columns=columns, **form), per_class, FIXED_POINT)


def _gram() -> np.ndarray:
    packed = OWNERS[0].exact
    assert packed is not None
    return unpack_triangle(packed, SIZE).astype(np.int64)


def _with_entry(row: int, column: int, value: int) -> np.ndarray:
    gram = _gram()
    gram[row, column] = gram[column, row] = value
    return pack_triangle(gram)


def _with_column(row: int, column: int, factor: int) -> np.ndarray:
    columns = OWNERS[0].columns.copy()
    columns[row, column] *= factor
    return columns


@pytest.mark.parametrize(
    ("change", "class_counts", "found"),
    [
        ({"columns": OWNERS[0].columns * [1, 50, 1]}, None, "does not count|beyond what its samples"),
        (
            {"columns": OWNERS[0].columns * 1000, "exact": pack_triangle(_gram() * 1000)},
            None,
            "beyond|not count",
        ),
        ({"columns": _with_column(2, 1, 2)}, None, "do not add up"),
        ({"exact": pack_triangle(_gram() * 1000)}, None, "counts other samples"),
        ({"exact": _with_entry(0, 1, 10 * int(_gram().max()))}, None, "not positive definite"),
        ({"exact": _with_entry(3, 3, 0)}, None, "larger than F'F allows"),
        ({"exact": _with_entry(3, 3, 2**60)}, None, "F'F beyond what"),
        ({"samples": 10**9}, None, "1000000000 samples"),
        ({"samples": 10**9}, [10**9 - 40, 20, 20], "class counts"),
        ({"samples": 600}, [200, 200, 200], "does not count"),
        ({}, [60, 0, 0], "class counts"),
        ({}, [30, 30], "class counts"),
        ({"exact": np.asarray(OWNERS[0].exact, dtype=np.float64)}, None, "float64"),
        ({"exact": np.asarray(OWNERS[0].exact)[:-1]}, None, "entries"),
        ({"columns": np.full_like(OWNERS[0].columns, np.iinfo(np.int64).min)}, None, "column beyond"),
    ],
)
def test_false_exact_sums_are_refused_by_name(
    change: dict, class_counts: list[int] | None, found: str
) -> None:
    wrong = replace(OWNERS[0], **change)
    with pytest.raises(InvalidInputError, match=found):
        check_sums(wrong, counts(0) if class_counts is None else np.array(class_counts), FIXED_POINT)


COMPACT = compact(0, 5)
PARTS = COMPACT.compact
assert PARTS is not None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"diagonal": np.full(SIZE, np.nan, np.float32)}, "diagonal with a value"),
        ({"diagonal": -PARTS.diagonal - 1}, "diagonal with a value"),
        ({"factor_scales": np.full(5, np.inf, np.float32)}, "factor_scales with a value"),
        ({"factor_scales": PARTS.factor_scales * 1000}, "F'F beyond|counts other samples"),
        ({"factor_scales": PARTS.factor_scales * 1.1}, "counts other samples"),
        ({"factors": PARTS.factors // 100}, "do not fill their integers"),
        ({"factors": PARTS.factors[::-1].copy()}, "counts other samples|do not add up"),
        ({"diagonal": PARTS.diagonal + np.float32(1e15)}, "F'F beyond"),
    ],
)
def test_false_compact_sums_are_refused_by_name(change: dict, found: str) -> None:
    wrong = replace(COMPACT, compact=replace(PARTS, **change))
    with pytest.raises(InvalidInputError, match=found):
        check_sums(wrong, counts(0), FIXED_POINT)


def test_inflated_columns_of_compact_sums_are_refused() -> None:
    for row, class_row in ((2, 1), (7, 0)):
        columns = COMPACT.columns.copy()
        columns[row, class_row] += 2000
        with pytest.raises(InvalidInputError, match="do not add up"):
            check_sums(replace(COMPACT, columns=columns), counts(0), FIXED_POINT)
