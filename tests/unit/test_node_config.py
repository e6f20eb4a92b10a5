"""A node's settings: the environment before node.toml, and what is wrong there is named."""

from pathlib import Path

import pytest

from node.config import DEFAULT_STAND_INS, NodeConfig
from swarm.domain.errors import UsageError


def test_how_many_stand_in_is_a_setting_of_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NodeConfig.load(tmp_path).stand_ins == DEFAULT_STAND_INS
    (tmp_path / "node.toml").write_text("stand_ins = 0\n")
    assert NodeConfig.load(tmp_path).stand_ins == 0
    monkeypatch.setenv("SWARM_STAND_INS", "3")
    assert NodeConfig.load(tmp_path).stand_ins == 3


@pytest.mark.parametrize("value", ["two", "-1", "1.5", "²"])
@pytest.mark.parametrize("name", ["threads", "stand_ins"])
def test_what_is_no_number_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SWARM_{name.upper()}", value)
    with pytest.raises(UsageError, match=f"{name}: found '{value}'"):
        NodeConfig.load(tmp_path)


def test_what_experts_may_take_of_memory_is_a_size_of_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> tuple[int, bool]:
        config = NodeConfig.load(tmp_path)
        return config.expert_bytes, config.micro_batching

    assert found() == (1 << 30, True)
    (tmp_path / "node.toml").write_text('expert_memory = "512MB"\nmicro_batching = false\n')
    assert found() == (512 * 10**6, False)
    monkeypatch.setenv("SWARM_EXPERT_MEMORY", "2GiB")
    monkeypatch.setenv("SWARM_MICRO_BATCHING", "on")
    assert found() == (2 << 30, True)


@pytest.mark.parametrize("value", ["much", "-1", "0", "0.1", "GB"])
def test_what_is_no_size_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SWARM_EXPERT_MEMORY", value)
    with pytest.raises(UsageError, match=f"expert_memory: found '{value}'.*512MB"):
        NodeConfig.load(tmp_path)
