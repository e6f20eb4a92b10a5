"""What is said of a transfer: how much came, and how; deltas only where there can be any."""

from pathlib import Path

import pytest

from swarm.cli.places import Place
from swarm.cli.pulling import came
from swarm.cli.verified import takes_deltas
from swarm.domain.errors import UsageError
from swarm.rpc.verified import Fetched


@pytest.mark.parametrize(
    ("fetched", "said"),
    [
        (Fetched(), "all of it was here already"),
        (Fetched(came_bytes=3000), "3.0 kB came"),
        (Fetched(came_bytes=1000), "1.0 kB came, the rest was here already"),
        (
            Fetched(came_bytes=3000, delta_bytes=2000, delta_sent_bytes=150),
            "3.0 kB came, 2.0 kB of it as deltas of 150 B",
        ),
    ],
)
def test_it_is_said_how_much_came_and_how(fetched: Fetched, said: str) -> None:
    assert came(fetched, 3000) == said


def test_deltas_are_refused_where_no_version_is_kept_and_else_as_the_node_says(tmp_path: Path) -> None:
    operator, node = Place(tmp_path, is_node=False), Place(tmp_path, is_node=True)
    with pytest.raises(UsageError, match="--delta"):
        takes_deltas(operator, True)
    assert not takes_deltas(operator, None) and not takes_deltas(node, None)
    (tmp_path / "node.toml").write_text("delta = true\n")
    assert takes_deltas(node, None) and not takes_deltas(node, False)
