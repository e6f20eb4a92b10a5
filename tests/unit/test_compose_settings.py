"""What `docker compose` hands to the services, unless its user says otherwise, are their own defaults."""

import re
from pathlib import Path

import pytest

from node.config import NodeConfig
from node.expert_server import listen_address
from swarm.cli.settings import Settings, load_settings

FOLDER = Path(__file__).parents[2]
OF_NODES = {"expert_memory"}


def passed_on(file: str) -> list[tuple[str, str]]:
    """Return the settings that a file passes on, with the default that it gives them."""
    text = (FOLDER / file).read_text()
    return re.findall(r'^ +SWARM_(\w+): "\$\{SWARM_\1:-([^}]*)\}"$', text, re.MULTILINE)


def test_settings_that_are_passed_on_have_the_defaults_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_settings(tmp_path)
    passed = passed_on("docker-compose.yml")
    names = {name.lower() for name, _ in passed} - OF_NODES
    serving = {"replicas", "query_rate", "query_rates", "audit_days"}
    assert {"registry_node_quota", "gate_versions_kept"} | serving <= names <= set(Settings.model_fields)
    for name, default in passed:
        monkeypatch.setenv(f"SWARM_{name}", default)
    assert load_settings(tmp_path).model_dump() == plain.model_dump()


@pytest.mark.parametrize(("file", "nodes"), [("docker-compose.yml", 3), ("compose.join.yaml", 1)])
def test_every_node_is_told_what_its_experts_may_take_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, nodes: int
) -> None:
    plain = NodeConfig.load(tmp_path)
    defaults = [default for name, default in passed_on(file) if name == "EXPERT_MEMORY"]
    assert len(defaults) == nodes and len(set(defaults)) == 1
    monkeypatch.setenv("SWARM_EXPERT_MEMORY", defaults[0])
    assert NodeConfig.load(tmp_path) == plain


def test_what_a_user_sets_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_QUERY_RATES", '{"client/app": 5000}')
    assert load_settings(tmp_path).query_rates == {"client/app": 5000}


@pytest.mark.parametrize(("file", "nodes"), [("docker-compose.yml", 3), ("compose.join.yaml", 1)])
def test_every_node_listens_at_its_own_services_name_and_publishes_nothing(file: str, nodes: int) -> None:
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((FOLDER / file).read_text())["services"]
    found = {name: each for name, each in services.items() if "SWARM_NODE" in each.get("environment", {})}
    assert len(found) == nodes
    for name, service in found.items():
        address = service["environment"]["SWARM_ADVERTISE"]
        assert address == f"{name}:7073" and listen_address(address) == "0.0.0.0:7073"
        assert service["networks"] == ["edge"] and "ports" not in service
