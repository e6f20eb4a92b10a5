"""Homes as commands name them, and who may still work in one."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swarm.cli.app import build
from swarm.cli.options import seconds
from swarm.cli.places import Place
from swarm.cli.standing import check_present, check_standing, note_departure
from swarm.config import home_flag
from swarm.domain.errors import UnauthenticatedError, UsageError
from tests.support.node_homes import member_home


def test_a_printed_command_can_be_pasted_whatever_the_home_is_called(tmp_path: Path) -> None:
    root = tmp_path / "n \u00f6's home"
    assert shlex.split(f"swarm train DATA {home_flag(root)}")[-1] == str(root)
    founded = CliRunner().invoke(
        build(),
        ["init", "--input-shape", "4", "--classes", "a,b", "--trunk", "identity", "--home", str(root)],
    )
    assert founded.exit_code == 0, founded.output
    printed = [line for line in founded.output.splitlines() if "--home" in line]
    assert printed and all(shlex.split(line[line.index("--home") :])[-1] == str(root) for line in printed)


async def test_who_left_is_refused_also_while_the_coordinator_is_away(tmp_path: Path) -> None:
    home, _ = member_home(tmp_path)
    place = Place(home.root, is_node=True)
    await check_standing(place)  # nobody listens at its coordinator's address: nothing speaks against it
    note_departure(place)
    with pytest.raises(UnauthenticatedError, match="node rose: found that it left swarm garden"):
        check_present(place)
    with pytest.raises(UnauthenticatedError):
        await check_standing(place)


@pytest.mark.parametrize("text", ["0", "0s", "0.0h", "-5s", "", "soon", "9" * 400])
def test_a_time_that_is_none_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget: .*a time above 0"):
        seconds(text, "--budget")
    assert (seconds("1.5m", "--budget"), seconds("90", "--budget")) == (90.0, 90.0)
