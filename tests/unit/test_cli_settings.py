"""Settings: flag > environment > TOML > default, and no secrets in TOML."""

from pathlib import Path

import pytest

from swarm.cli.settings import load_settings
from swarm.domain.errors import UsageError


def test_a_flag_goes_before_the_environment_before_toml_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(tmp_path).registry_port == 7072
    (tmp_path / "swarm.toml").write_text("registry_port = 1111\njoin_port = 2222\n")
    assert load_settings(tmp_path).registry_port == 1111
    monkeypatch.setenv("SWARM_REGISTRY_PORT", "3333")
    assert load_settings(tmp_path).registry_port == 3333
    assert load_settings(tmp_path, registry_port=4444).registry_port == 4444
    assert load_settings(tmp_path, registry_port=None).join_port == 2222


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("registry_port = 'many'", "registry_port"),
        ("registry_prot = 7000", "registry_prot"),
        ("join_port = 99999", "join_port"),
        ("redis_url = 'redis://:secret@host'", "redis_url"),
        ("not toml at all", "swarm.toml"),
    ],
)
def test_a_wrong_toml_file_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path, text: str, named: str
) -> None:
    (tmp_path / "swarm.toml").write_text(text)
    with pytest.raises(UsageError) as refused:
        load_settings(tmp_path)
    assert named in str(refused.value)
    assert "secret@" not in str(refused.value)


def test_unknown_variables_of_the_environment_are_nobodys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_DEBUG", "1")
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    assert load_settings(tmp_path).timeout_s == 30.0
