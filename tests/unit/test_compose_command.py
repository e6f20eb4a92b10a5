"""`make test-compose` runs with either Compose, and is skipped, with the reason, where there is none."""

from pathlib import Path

import pytest

from tests.support.containers import NoContainersError, compose_command
from tests.support.scripts import Stubs

ENGINE_ONLY = '[ "$1" = version ]'
WITH_COMPOSE = '[ "$1" = version ] || [ "$1 $2" = "compose version" ]'


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    made = Stubs(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return made


def test_the_engines_own_compose_goes_first(programs: Stubs) -> None:
    programs.add("docker", WITH_COMPOSE)
    programs.add("docker-compose", ENGINE_ONLY)
    assert compose_command() == ("docker", "compose")


def test_compose_1_29_is_a_command_of_its_own(programs: Stubs) -> None:
    programs.add("docker", ENGINE_ONLY)
    programs.add("docker-compose", ENGINE_ONLY)
    assert compose_command() == ("docker-compose",)


@pytest.mark.parametrize("compose", ["", "exit 1"])
def test_an_engine_without_compose_is_said(programs: Stubs, compose: str) -> None:
    programs.add("docker", ENGINE_ONLY)
    if compose:
        programs.add("docker-compose", compose)
    with pytest.raises(NoContainersError, match="neither docker compose nor docker-compose"):
        compose_command()


@pytest.mark.parametrize("engine", ["", "exit 1"])
def test_compose_without_an_engine_is_said(programs: Stubs, engine: str) -> None:
    if engine:
        programs.add("docker", engine)
    programs.add("docker-compose", ENGINE_ONLY)
    with pytest.raises(NoContainersError, match="no container engine answers"):
        compose_command()
