"""Several nets that came from one become one: by hand-computed cases, in any order, and refused by name."""

from collections.abc import Mapping, Sequence
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError, ShapeMismatchError, VerificationError
from swarm.domain.growth import MERGE_METHODS
from swarm.domain.ids import Digest, ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.manifests import Cost, Manifest
from swarm.experts.merging import SCALES, Head, merged, merged_net
from swarm.experts.nets import build_net, net_reference
from swarm.experts.weights import pack_net

BATCH_NORM = f"{__name__}:batch_norm_net"
HEADLESS = f"{__name__}:headless_net"


def batch_norm_net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], 3), nn.BatchNorm1d(3), nn.Linear(3, classes))


def headless_net(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(input_shape[0], classes), nn.Linear(classes, 2 * classes), nn.GLU())


def weights(*values: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=dtype)}


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


ORIGIN = weights(1, 2, 3, 4, 5)
FIRST = weights(3, 2, 2, 4, 9)  # tau = 2, 0, -1, 0, 4
SECOND = weights(1, 5, 4, 3, -1)  # tau = 0, 3, 1, -1, -6


def test_magmax_adds_half_of_the_largest_change_of_each_element() -> None:
    # The largest: 2, 3, 1 (of -1 and 1 the positive one), -1, -6; half of them: 1, 1.5, .5, -.5, -3.
    assert merged("magmax", ORIGIN, [FIRST, SECOND])["w"].tolist() == [2, 3.5, 3.5, 3.5, 2]


def test_the_mean_of_task_vectors_is_the_mean_of_the_parents() -> None:
    # Means of tau: 1, 1.5, 0, -.5, -1.
    assert merged("mean", ORIGIN, [FIRST, SECOND])["w"].tolist() == [2, 3.5, 3, 3.5, 4]


def test_ties_keeps_the_largest_fifth_of_each_whole_vector_and_the_sign_of_their_sum() -> None:
    # Ten elements in two tensors, so each parent keeps two:
    #   first   5  4  3 | 0 0 0 0 0 0  0  -> 5  4  .
    #   second  1  6  7 | 2 0 0 0 0 0  0  -> .  6  7
    #   third  -3 -8  1 | 2 0 0 0 0 0 -2  -> -3 -8 .
    # Signs of the sums 2, 2, 7: all +; means of the agreeing: 5, (4 + 6) / 2 = 5, 7; times .55.
    origin = {"a": torch.ones(3), "b": torch.ones(7)}
    changes = [
        ([5, 4, 3], [0, 0, 0, 0, 0, 0, 0]),
        ([1, 6, 7], [2, 0, 0, 0, 0, 0, 0]),
        ([-3, -8, 1], [2, 0, 0, 0, 0, 0, -2]),
    ]
    parents = [{"a": torch.tensor(a) + 1.0, "b": torch.tensor(b) + 1.0} for a, b in changes]
    found = merged("ties", origin, parents)
    assert found["a"].tolist() == pytest.approx([3.75, 3.75, 4.85])
    assert found["b"].tolist() == [1] * 7


def test_ties_leaves_what_parents_push_equally_far_both_ways() -> None:
    assert merged("ties", weights(1, 1), [weights(3, 1), weights(-1, 1)])["w"].tolist() == [1, 1]
    assert merged("ties", weights(1, 1), [weights(1, 1), weights(1, 1)])["w"].tolist() == [1, 1]


def test_a_scale_of_ones_own_replaces_the_methods() -> None:
    assert merged("magmax", ORIGIN, [FIRST, SECOND], scale=1.0)["w"].tolist() == [3, 5, 4, 3, -1]
    assert merged("mean", ORIGIN, [FIRST, SECOND], scale=0.5)["w"].tolist() == [1.5, 2.75, 3, 3.75, 4.5]


@pytest.mark.parametrize("method", MERGE_METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_order_of_the_parents_changes_no_digit(method: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    origin = weights(*torch.randn(40).tolist(), dtype=dtype)
    parents = [weights(*torch.randn(40).tolist(), dtype=dtype) for _ in range(4)]
    results = [merged(method, origin, order) for order in permutations(parents)]
    assert all(equal(result, results[0]) for result in results)
    assert results[0]["w"].dtype == dtype


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_mean_of_equal_parents_is_the_parent(count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    parent = weights(*(torch.randn(200) * 10.0 ** torch.randint(-4, 4, (200,))).tolist(), dtype=dtype)
    assert equal(merged("mean", weights(*[3e4] * 200, dtype=dtype), [parent] * count), parent)


def test_half_precision_is_reckoned_in_a_wider_one() -> None:
    # float16 ends at 65504: neither the sum of the first nor the second's task vector would be finite in it.
    high, low = weights(60000, dtype=torch.float16), weights(-60000, dtype=torch.float16)
    assert merged("mean", low, [high, high])["w"].tolist() == [60000]
    assert merged("magmax", low, [high, high])["w"].tolist() == [0]


def head_of(rows: Sequence[float]) -> dict[str, Tensor]:
    return {"body": torch.ones(1), "head": torch.tensor([[row, 2.0 * row] for row in rows])}


def test_rows_of_the_output_layer_are_matched_by_class_name() -> None:
    head = Head(tensors=["head"], ancestor="ab", parents=["ba", "ab"])
    found = merged("mean", head_of([1, 2]), [head_of([20, 10]), head_of([30, 40])], head=head)
    assert head.class_names == ("a", "b")
    assert found["head"].tolist() == [[20, 40], [30, 60]]
    turned = Head(tensors=["head"], ancestor="ab", parents=["ab", "ba"])
    again = merged("mean", head_of([1, 2]), [head_of([30, 40]), head_of([20, 10])], head=turned)
    assert equal(found, again)


@pytest.mark.parametrize("method", MERGE_METHODS)
def test_a_class_that_one_parent_has_keeps_that_parents_row(method: str) -> None:
    # `a`: both parents; `b`: all; `c`: theta_0 and a parent; `d`: a parent alone; `e`: theta_0 alone.
    head = Head(tensors=["head"], ancestor="bce", parents=["abc", "dba"])
    found = merged(method, head_of([1, 7, 9]), [head_of([2, 3, 5]), head_of([8, 3, 4])], head=head)
    assert head.class_names == ("a", "b", "c", "d")
    rows = found["head"][:, 1].tolist()
    assert rows[0] == 6  # without theta_0 no task vector: the mean of 4 and 8
    assert rows[1] == pytest.approx(2 + SCALES[method] * 4)  # of three shared elements ties keeps this one
    assert rows[2:] == [10, 16]


def test_parents_of_one_order_of_classes_keep_it() -> None:
    assert Head(tensors=[], ancestor="ab", parents=["ba", "ba"]).class_names == ("b", "a")


def test_counters_become_the_largest_and_running_statistics_the_mean() -> None:
    def state(mean: float, steps: int, flag: bool) -> dict[str, Tensor]:
        return {
            "bn.running_mean": torch.tensor([mean]),
            "bn.num_batches_tracked": torch.tensor(steps),
            "bn.flag": torch.tensor([flag]),
        }

    parents = [state(4.0, 12, True), state(6.0, 11, False)]
    found = merged("magmax", state(0.0, 10, False), parents, buffers=["bn.running_mean"])
    assert {name: each.tolist() for name, each in found.items()} == {
        "bn.running_mean": [5.0],
        "bn.num_batches_tracked": 12,
        "bn.flag": [True],
    }
    assert found["bn.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize(
    ("ancestor", "parents", "named"),
    [
        (ORIGIN, [FIRST, weights(1, 2)], r"parent 2, tensor w: found \[2\]; expected \[5\]"),
        (weights(1), [FIRST, SECOND], r"common ancestor, tensor w: found \[1\]"),
        (ORIGIN, [FIRST, {}], "parent 2, tensor w: found none"),
        (
            ORIGIN,
            [FIRST, {**SECOND, "v": torch.ones(1)}],
            "parent 2, tensor v: found one that parent 1 lacks",
        ),
        (ORIGIN, [FIRST, {"w": SECOND["w"].double()}], r"parent 2, tensor w: found torch\.float64"),
        ({"w": ORIGIN["w"].long()}, [FIRST, SECOND], r"common ancestor, tensor w: found torch\.int64"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    ancestor: dict[str, Tensor], parents: list[dict[str, Tensor]], named: str
) -> None:
    with pytest.raises(ShapeMismatchError, match=named):
        merged("mean", ancestor, parents)


def test_an_ancestor_of_another_precision_will_do() -> None:
    assert merged("magmax", {"w": ORIGIN["w"].double()}, [FIRST, SECOND])["w"].tolist() == [
        2,
        3.5,
        3.5,
        3.5,
        2,
    ]


def test_a_head_without_a_row_for_each_class_is_refused() -> None:
    head = Head(tensors=["head"], ancestor="ab", parents=["ab", "abc"])
    with pytest.raises(ShapeMismatchError, match=r"parent 2, tensor head: found \[2, 2\]; expected \[3, 2\]"):
        merged("mean", head_of([1, 2]), [head_of([1, 2]), head_of([3, 4])], head=head)
    with pytest.raises(InvalidInputError, match="2 parents"):
        merged("mean", ORIGIN, [FIRST, SECOND], head=Head(tensors=[], ancestor="a", parents=["a"]))
    with pytest.raises(InvalidInputError, match="twice"):
        Head(tensors=["head"], ancestor="ab", parents=["ab", "aa"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    broken = weights(1, bad, 3, 4, 5)
    with pytest.raises(VerificationError, match="parent 2, tensor w"):
        merged("mean", ORIGIN, [FIRST, broken])
    with pytest.raises(VerificationError, match="common ancestor, tensor w"):
        merged("magmax", broken, [FIRST, SECOND])
    with pytest.raises(VerificationError, match="magmax merge, tensor w"):
        largest = torch.finfo(torch.float32).max
        merged("magmax", weights(-largest), [weights(largest), weights(largest)], scale=2.0)


def test_what_cannot_be_merged_at_all_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'sum'"):
        merged("sum", ORIGIN, [FIRST, SECOND])
    with pytest.raises(InvalidInputError, match="at least two"):
        merged("mean", ORIGIN, [FIRST])
    for scale in (0.0, float("nan"), float("inf"), -1.0):
        with pytest.raises(InvalidInputError, match="scale"):
            merged("mean", ORIGIN, [FIRST, SECOND], scale=scale)
    assert set(SCALES) == set(MERGE_METHODS)


class Store:
    """Manifests of nets, and their blobs."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    def read(self, digest: Digest) -> memoryview:
        return memoryview(self.blobs[digest])

    def manifest(self, net: nn.Module, factory: str, class_names: str, inputs: int = 4) -> Manifest:
        modules, blobs = pack_net(net)
        self.blobs |= blobs
        return Manifest(
            swarm=SwarmId("s"),
            expert=ExpertId("ada.e1"),
            version=1,
            parent_version=0,
            leaf=LeafId("ada.l1"),
            owner=NodeId("ada"),
            net=net_reference(factory, (inputs,), len(class_names)),
            class_names=tuple(class_names),
            modules=modules,
            parents=(),
            trunk=digest_of(b"trunk"),
            gate_version_seen=1,
            share="borrow",
            metrics={},
            cost=Cost(train_flops=0, inference_flops=1, samples_seen=0, duration_s=0),
            created_at=0.0,
        )

    def built(self, factory: str, class_names: str, seed: int, inputs: int = 4) -> Manifest:
        torch.manual_seed(seed)
        net = build_net(net_reference(factory, (inputs,), len(class_names)))
        return self.manifest(net, factory, class_names, inputs)


def test_versions_merge_into_a_net_over_the_classes_of_all() -> None:
    store = Store()
    origin, first, second = (
        store.built("mlp:8x1", names, seed) for seed, names in enumerate(("ab", "ab", "cb"))
    )
    before = torch.random.get_rng_state()
    net, classes = merged_net("mean", origin, [first, second], store.read)
    assert torch.equal(before, torch.random.get_rng_state())
    assert classes == ("a", "b", "c") and not net.training
    torch.manual_seed(1)
    one = build_net(first.net)
    torch.manual_seed(2)
    other = build_net(second.net)
    state, ones, others = net.state_dict(), one.state_dict(), other.state_dict()
    assert torch.allclose(
        state["hidden1.weight"], (ones["hidden1.weight"] + others["hidden1.weight"]) / 2, atol=1e-7
    )
    assert torch.equal(state["head.bias"][0], ones["head.bias"][0])
    assert torch.equal(state["head.bias"][2], others["head.bias"][0])
    assert torch.allclose(state["head.bias"][1], (ones["head.bias"][1] + others["head.bias"][1]) / 2)


def test_exact_copies_of_one_parent_merge_into_it_whatever_the_method() -> None:
    store = Store()
    origin = store.built("mlp:8x1", "ab", 1)
    for method in MERGE_METHODS:
        net, _ = merged_net(method, origin, [origin, origin], store.read)
        again = store.manifest(net, "mlp:8x1", "ab")
        assert [module.digest for module in again.modules] == [module.digest for module in origin.modules]


def test_a_net_with_batch_norm_has_its_statistics_averaged() -> None:
    store = Store()
    nets = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = batch_norm_net((4,), 2)
        net.train()(torch.randn(16, 4) + seed)
        nets.append(net)
    versions = [store.manifest(net, BATCH_NORM, "ab") for net in nets]
    found, _ = merged_net("magmax", versions[0], versions[1:], store.read)
    means = [net.state_dict()["1.running_mean"] for net in nets[1:]]
    assert torch.allclose(found.state_dict()["1.running_mean"], (means[0] + means[1]) / 2)


def test_versions_of_different_nets_are_not_merged() -> None:
    store = Store()
    origin, first, second = (store.built(each, "ab", 0) for each in ("mlp:8x1", "mlp:8x1", "mlp:8x2"))
    with pytest.raises(InvalidInputError, match=r"mlp:8x1 \[4\] , mlp:8x2 \[4\]"):
        merged_net("mean", origin, [first, second], store.read)
    with pytest.raises(ShapeMismatchError, match="common ancestor"):
        merged_net("mean", second, [first, first], store.read)
    with pytest.raises(InvalidInputError, match="at least two"):
        merged_net("mean", first, [], store.read)


def test_without_a_last_linear_layer_of_the_classes_their_names_must_be_the_same() -> None:
    store = Store()
    first, second = store.built(HEADLESS, "ab", 0), store.built(HEADLESS, "ba", 1)
    with pytest.raises(InvalidInputError, match="the same classes in the same order"):
        merged_net("mean", first, [first, second], store.read)
    _, classes = merged_net("mean", second, [second, second], store.read)
    assert classes == ("b", "a")
