"""Experts of one architecture answer as one computation what each answers alone."""

from pathlib import Path

import numpy as np
import pytest

from swarm.domain.inference import ExpertForm
from swarm.experts.expert import LoadedExpert
from swarm.experts.grouped import MOST_EXPERT_BYTES, ExpertGroup, architecture
from tests.support.expert_home import ExpertHome, expert_home, images

FORMS: tuple[ExpertForm, ...] = ("probabilities", "corrections")


def loaded(garden: ExpertHome) -> list[LoadedExpert]:
    store = garden.store()
    return [store.expert(digest, garden.specification) for digest in garden.experts]


@pytest.mark.parametrize("net", ["linear", "mlp:16x1", "mlp:32x3"])
@pytest.mark.parametrize("form", FORMS)
def test_a_group_answers_as_its_experts_do_alone_whatever_each_is_asked(
    tmp_path: Path, net: str, form: ExpertForm
) -> None:
    garden = expert_home(tmp_path)
    for seed in range(4):
        garden.add(net=net, seed=seed, corrected=True)
    experts = loaded(garden)
    group = ExpertGroup(experts, form)
    inputs = [images(count, count) for count in (3, 0, 7, 1)]
    for expert, rows, values in zip(experts, inputs, group.values(inputs), strict=True):
        assert values.dtype == np.float32 and values.shape == (len(rows), 2)
        np.testing.assert_allclose(values, expert.values(rows, form), rtol=1e-5, atol=1e-5)
    assert group.size_bytes == sum(expert.form_bytes(form) for expert in experts)


def test_what_shares_no_architecture_is_large_or_no_plain_net_goes_alone(tmp_path: Path) -> None:
    garden = expert_home(tmp_path)
    for net in ("mlp:8x1", "mlp:16x1", "cnn", "mlp:2048x2"):
        garden.add(net=net)
    small, other, cnn, large = loaded(garden)
    assert architecture(small, "probabilities") != architecture(other, "probabilities")
    assert architecture(small, "probabilities") is not None
    assert large.size_bytes > MOST_EXPERT_BYTES
    assert architecture(large, "probabilities") is None and architecture(cnn, "probabilities") is None
    assert architecture(small, "corrections") is None


def test_a_group_is_not_used_where_most_of_it_would_be_padding(tmp_path: Path) -> None:
    group = ExpertGroup(loaded(expert_home(tmp_path, 4)), "probabilities")
    assert group.pays([1, 1, 1, 1]) and group.pays([2, 2, 0, 0]) and group.pays([8, 4, 4, 8])
    assert not group.pays([8, 0, 0, 0]) and not group.pays([8, 1, 1, 1])
