"""Settings: flag > environment > TOML > default, and no secrets in TOML."""

from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig
from swarm.cli import services
from swarm.cli.settings import load_settings
from swarm.config import SwarmHome
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


@pytest.mark.parametrize("size", ["0.5", "-5", "0.0001kB"])
def test_a_quota_below_a_byte_is_not_taken_for_no_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    monkeypatch.setenv("SWARM_REGISTRY_NODE_QUOTA", size)
    with pytest.raises(UsageError, match="registry_node_quota"):
        load_settings(tmp_path)


@pytest.mark.parametrize(("size", "read"), [("0", 0), ("0GB", 0), ("0.0", 0), ("20GB", 20 * 10**9), ("7", 7)])
def test_a_quota_is_a_size_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, read: int
) -> None:
    monkeypatch.setenv("SWARM_REGISTRY_NODE_QUOTA", size)
    assert load_settings(tmp_path).registry_node_quota == read


def test_only_flags_that_a_command_has_are_named_where_a_setting_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_REGISTRY_KEEP_ANCESTORS", "foo")
    with pytest.raises(UsageError) as refused:
        load_settings(tmp_path, registry_port=None)
    assert "--registry-keep-ancestors" not in refused.value.remedy
    assert "SWARM_REGISTRY_KEEP_ANCESTORS" in refused.value.remedy
    monkeypatch.undo()
    with pytest.raises(UsageError, match="correct --port, SWARM_REGISTRY_PORT"):
        load_settings(tmp_path, registry_port=99_999)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("replicas", "0", "greater than or equal to 1"),
        ("replicas", "x", "a valid integer"),
        ("growth", "wild", "'manual', 'conservative' or 'eager'"),
        ("query_rates", "{client", "a table in JSON"),
        ("registry_node_quota", "0.5", "0, or a byte at least"),
        ("registry_node_quota", "much", "another value: could not parse"),
    ],
)
def test_a_wrong_value_is_refused_with_what_that_setting_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, wanted: str
) -> None:
    monkeypatch.setenv(f"SWARM_{name.upper()}", value)
    with pytest.raises(UsageError) as refused:
        load_settings(tmp_path)
    error = refused.value
    assert error.subject == f"setting {name}" and error.found == repr(value)
    assert error.expected.startswith(wanted) and "log_level" not in str(error)


def test_a_setting_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "swarm.toml").write_text("replica = 2\n")
    with pytest.raises(UsageError, match="not known here") as refused:
        load_settings(tmp_path)
    assert "replicas, " in refused.value.expected


def test_unknown_variables_of_the_environment_are_nobodys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_DEBUG", "1")
    monkeypatch.setenv("SWARM_HOME", str(tmp_path))
    assert load_settings(tmp_path).timeout_s == 30.0


def test_what_growth_looks_for_and_how_long_it_waits_can_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unset, the coordinator looks as it does without the command."""
    names = ("growth_every_s", "growth_criterion", "growth_stale_after_s", "growth_patience_s")
    plain, config = load_settings(tmp_path), CoordinatorConfig(home=SwarmHome(tmp_path), redis_url="")
    assert [getattr(plain, name) for name in names] == [getattr(config, name) for name in names]
    (tmp_path / "swarm.toml").write_text('growth_criterion = "usage"\ngrowth_patience_s = 30\n')
    monkeypatch.setenv("SWARM_GROWTH_STALE_AFTER_S", "86400")
    found = load_settings(tmp_path)
    assert (found.growth_criterion, found.growth_patience_s) == ("usage", 30.0)
    assert found.growth_stale_after_s == 86_400.0
    with pytest.raises(UsageError, match="growth_criterion"):
        load_settings(tmp_path, growth_criterion="size")


def test_the_coordinators_process_is_set_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[CoordinatorConfig] = []
    monkeypatch.setattr("coordinator.app.serve", lambda config, _: given.append(config))
    monkeypatch.setattr("swarm.cli.services._run", lambda *arguments, **options: arguments[2]())
    monkeypatch.setattr("swarm.cli.places.founder_home", lambda home: SwarmHome(tmp_path))
    for name, value in (("CRITERION", "usage"), ("STALE_AFTER_S", "9"), ("PATIENCE_S", "8")):
        monkeypatch.setenv(f"SWARM_GROWTH_{name}", value)
    monkeypatch.setenv("SWARM_REDIS_URL", "redis://localhost:1/0")
    services.coordinator()
    (found,) = given
    assert (found.growth_criterion, found.growth_stale_after_s, found.growth_patience_s) == (
        "usage",
        9.0,
        8.0,
    )


def test_rates_are_json_in_the_environment_and_a_table_in_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swarm.toml").write_text('query_rates = { "client/ada" = 7 }\n')
    assert load_settings(tmp_path).query_rates == {"client/ada": 7}
    for said, read in (('{"client/app": 5000}', {"client/app": 5000}), ("", {}), (" ", {})):
        monkeypatch.setenv("SWARM_QUERY_RATES", said)
        assert load_settings(tmp_path).query_rates == read
    for wrong in ("5000", "{", '{"client/app": "many"}'):
        monkeypatch.setenv("SWARM_QUERY_RATES", wrong)
        with pytest.raises(UsageError, match="query_rates"):
            load_settings(tmp_path)
