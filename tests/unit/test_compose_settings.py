"""What `docker compose` hands to the services, unless its user says otherwise, are their own defaults."""

import re
from pathlib import Path

import pytest

from swarm.cli.settings import Settings, load_settings

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


def test_settings_that_are_passed_on_have_the_defaults_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_settings(tmp_path)
    passed = re.findall(r'^ +SWARM_(\w+): "\$\{SWARM_\1:-([^}]*)\}"$', COMPOSE.read_text(), re.MULTILINE)
    names = {name.lower() for name, _ in passed}
    assert {"registry_node_quota", "gate_versions_kept"} <= names <= set(Settings.model_fields)
    for name, default in passed:
        monkeypatch.setenv(f"SWARM_{name}", default)
    assert load_settings(tmp_path).model_dump() == plain.model_dump()
