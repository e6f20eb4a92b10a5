"""Whether weights travel as deltas: the variable, then node.toml, else they do not."""

from pathlib import Path

import pytest

from node.config import NodeConfig
from swarm.domain.errors import UsageError


@pytest.mark.parametrize(
    ("file", "variable", "expected"),
    [
        ("", None, False),
        ("delta = true", None, True),
        ("delta = true", "false", False),
        ("", "1", True),
        ('delta = "off"', None, False),
    ],
)
def test_the_variable_comes_before_the_file(
    file: str, variable: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node.toml").write_text(file)
    monkeypatch.delenv("SWARM_DELTA", raising=False)
    if variable is not None:
        monkeypatch.setenv("SWARM_DELTA", variable)
    assert NodeConfig.load(tmp_path).delta is expected


def test_neither_on_nor_off_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_DELTA", "perhaps")
    with pytest.raises(UsageError, match="delta: found 'perhaps'"):
        NodeConfig.load(tmp_path)
