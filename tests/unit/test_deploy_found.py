"""deploy/found.sh: cut short at any step, the next run ends with parts that all come from one founding."""

import shutil
from pathlib import Path

import pytest

from tests.support.scripts import Stubs

PARTS = ("registry", "operator", "ca", "coordinator")
STEPS = ("mktemp", "swarm", "find", "mkdir", "rm", "cp", "sync", "mv")
FILES = {
    "registry": ("identity/identity.json", "identity/key.pem"),
    "operator": ("identity/identity.json", "identity/key.pem"),
    "ca": ("ca.pem", "ca-key.pem"),
    "coordinator": (
        "blobs/trunk",
        "identity/identity.json",
        "identity/key.pem",
        "specification/1.json",
        "tokens/one.json",
    ),
}
_SWARM = """
founding=$(($(cat "$STATE/foundings") + 1))
echo "$founding" > "$STATE/foundings"
while [ "$1" != --home ]; do shift; done
for file in {files}; do
  mkdir -p "$(dirname "$2/$file")"
  echo "$founding" > "$2/$file"
done
"""
_COUNTED = """
count=$(($(cat "$STATE/count") + 1))
echo "$count" > "$STATE/count"
if [ "$count" = "$DIES_AT" ] && [ "$DIES" = before ]; then kill -KILL "$(cat "$STATE/pid")"; exit 1; fi
if [ "$count" = "$DIES_AT" ] && [ "$DIES" = half ]; then {half}; kill -KILL "$(cat "$STATE/pid")"; exit 1; fi
{real}
code=$?
if [ "$count" = "$DIES_AT" ] && [ "$DIES" = after ]; then kill -KILL "$(cat "$STATE/pid")"; fi
exit $code
"""
_HALF_A_COPY = '{cp} "$@"; {find} "$3" -type f | sed -n 1p | while read -r file; do rm "$file"; done'


class Founding:
    """Volumes for the parts, and stubs that can kill the script at one of their calls."""

    def __init__(self, folder: Path) -> None:
        self.parts, self._state = folder / "parts", folder / "state"
        for part in PARTS:
            (self.parts / part).mkdir(parents=True)
        (folder / "tmp").mkdir()
        self._state.mkdir()
        (self._state / "foundings").write_text("0")
        files = " ".join(f"{part}/{file}" for part, files in FILES.items() for file in files)
        self._stubs = Stubs(folder / "bin")
        for step in STEPS:
            real = _SWARM.format(files=files) if step == "swarm" else f'{shutil.which(step)} "$@"'
            half = ":"
            if step == "cp":
                half = _HALF_A_COPY.format(cp=shutil.which("cp"), find=shutil.which("find"))
            self._stubs.add(step, _COUNTED.format(real=real, half=half))
        self._stubs.add("sh", 'echo $$ > "$STATE/pid"; exec /bin/sh "$@"')
        self._environment = {
            "SWARM_PARTS": str(self.parts),
            "SWARM_NAME": "samples",
            "SWARM_SAMPLE": "samples:everything",
            "STATE": str(self._state),
            "TMPDIR": str(folder / "tmp"),
        }

    def run(self, dies_at: int = 0, dies: str = "") -> tuple[int, str]:
        """Run the script; return its exit code and what it said."""
        (self._state / "count").write_text("0")
        environment = self._environment | {"DIES_AT": str(dies_at), "DIES": dies}
        done = self._stubs.run("found.sh", **environment)
        return done.returncode, done.stdout + done.stderr

    @property
    def steps(self) -> int:
        """How many calls the last run made."""
        return int((self._state / "count").read_text())

    def held(self) -> dict[str, str]:
        """Return the file of every part, and which founding it is of."""
        return {
            str(path.relative_to(self.parts)): path.read_text().strip()
            for path in self.parts.rglob("*")
            if path.is_file() or path.name.startswith(".")
        }


WHOLE = {f"{part}/{file}" for part, files in FILES.items() for file in files}


@pytest.mark.parametrize(
    "dies",
    [pytest.param("before", marks=pytest.mark.chaos), pytest.param("half", marks=pytest.mark.chaos), "after"],
)
def test_a_founding_that_was_cut_short_is_begun_anew_by_the_next_run(tmp_path: Path, dies: str) -> None:
    whole = Founding(tmp_path / "whole")
    assert whole.run() == (0, "")
    assert whole.held() == dict.fromkeys(WHOLE, "1")
    assert whole.steps > 10
    founded_by = set()
    for step in range(1, whole.steps + 1):
        tried = Founding(tmp_path / str(step))
        assert tried.run(step, dies)[0] == -9, step
        code, said = tried.run()
        assert code == 0, (step, said)
        held = tried.held()
        assert set(held) == WHOLE and len(set(held.values())) == 1, (step, held)
        founded_by.add(held["ca/ca.pem"])
        assert tried.run() == (0, "the swarm was founded before\n")
        assert tried.held() == held
    assert founded_by == {"1", "2"}, "too late to begin anew, and early enough"


def test_even_a_second_founding_may_be_cut_short(tmp_path: Path) -> None:
    for step in (8, 12, 15):
        tried = Founding(tmp_path / str(step))
        for dies in ("after", "half", "before"):
            tried.run(step, dies)
        assert tried.run()[0] == 0
        assert set(tried.held()) == WHOLE and len(set(tried.held().values())) == 1


def test_a_lost_coordinators_volume_is_said_and_nothing_is_overwritten(tmp_path: Path) -> None:
    tried = Founding(tmp_path)
    tried.run()
    shutil.rmtree(tried.parts / "coordinator")
    (tried.parts / "coordinator").mkdir()
    left = tried.held()
    code, said = tried.run()
    assert code == 6 and "part registry" in said and "docker compose down -v" in said
    assert tried.held() == left
