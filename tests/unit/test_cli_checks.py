"""What `swarm doctor` says of the swarm."""

from types import SimpleNamespace
from typing import Any, cast

from swarm.cli.checks import owners_check
from tests.support.answers import KNOWS, gate


def seen(**experts: bool) -> Any:
    """A status of live nodes, with experts or without; and of one that is away."""
    nodes = [
        SimpleNamespace(id=name, alive=True, experts=(f"{name}.e0",) if has else ())
        for name, has in experts.items()
    ]
    return cast(
        Any, SimpleNamespace(nodes=[*nodes, SimpleNamespace(id="zoe", alive=False, experts=("zoe.e0",))])
    )


def test_the_doctor_names_live_owners_that_the_gate_is_without() -> None:
    value = gate(version=7).value
    in_the_gate = dict.fromkeys(KNOWS, True)
    assert owners_check(seen(**in_the_gate, new=False), value).ok
    found = owners_check(seen(**in_the_gate, fay=True, gil=True), value)
    assert not found.ok and found.found == "fay, gil with experts, but without a leaf in gate 7"
    assert "swarm gate rollback VERSION" in found.remedy and "swarm train DATA" in found.remedy
