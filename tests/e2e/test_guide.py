"""The guides, word by word: every shell block of them is run as it stands."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.commands import shell

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_guide_to_an_own_net_and_data_works_word_by_word() -> None:
    text = (ROOT / "docs" / "guides" / "own-net-and-data.md").read_text()
    blocks = BLOCK.findall(text)
    assert len(blocks) >= 5
    with tempfile.TemporaryDirectory(prefix="e2e-") as folder, shell(Path(folder)) as sh:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
            cwd=ROOT,
            env=sh.environment(),
            capture_output=True,
            text=True,
            timeout=220,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said = done.stdout
        for promised in ("swarm join swm1.", "raw data never leave", "contribution activated"):
            assert promised in said or promised in done.stderr
        accuracy = re.search(r"test accuracy ([0-9.]+)", said)
        assert accuracy is not None and float(accuracy[1]) > 0.9
        for fault, owner in (("imbalance", "north"), ("loose", "south"), ("worn", "south")):
            source = r" +[0-9.]+  coordinator\.e0@\d+ of coordinator: (\w+) "
            answer = re.search(rf"^\d: {fault} .*\n{source}", said, re.MULTILINE)
            assert answer is not None and answer[1] == owner, said
        assert sh.wait_for_nothing() == []
