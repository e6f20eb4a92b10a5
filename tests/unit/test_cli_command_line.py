"""The command line as a whole: quick to start, errors in four lines, exit codes, JSON by schema."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "flwr", "sklearn", "grpc", "google.protobuf", "redis", "pydantic")


def swarm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "swarm.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from swarm.cli.app import build\n"
        "import typer\n"
        "typer.main.get_command(build()).main(['--help'], standalone_mode=False)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "swarm" in done.stdout


def test_import_swarm_loads_nothing_heavy() -> None:
    script = f"import swarm, swarm.cli, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_command_explains_itself() -> None:
    families = {
        "": "up init join leave down redis registry coordinator node train outbound status events doctor"
        " experts lineage predict eval replay backup restore token expert gate bench federate health"
        " stream export import audit",
        "token": "create list revoke",
        "expert": "show pull add split merge remove retrain",
        "gate": "show fit history rollback proposals cancel growth",
        "bench": "skew domains alma hard-moe",
        "federate": "sums kmeans average evaluate",
        "stream": "report",
    }
    import typer
    from click import Group

    from swarm.cli.app import build

    command = typer.main.get_command(build())
    assert isinstance(command, Group)
    for family, expected in families.items():
        group = command.commands[family] if family else command
        assert isinstance(group, Group)
        assert set(expected.split()) == set(group.commands)
        assert all(child.help for child in group.commands.values() if not isinstance(child, Group))


def test_help_describes_the_argument_and_has_no_backslash() -> None:
    said = " ".join(swarm("train", "--help").stdout.split())
    assert "[DATA] digits, an IDX folder, a file.npz, or package.module:dataset." in said
    said += swarm("eval", "--help").stdout
    assert "[required]" in said
    assert "\\" not in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("frob",), 2, "No such command"),
        (("predict",), 2, "Missing argument"),
        (("status",), 2, "swarm init"),
        (("join", "nonsense"), 2, "TOKEN@HOST:PORT"),
        (("train", "digits"), 2, "swarm join"),
        (("init", "demo"), 2, "--data digits"),
        (("init", "Not A Name", "--data", "digits"), 2, "lowercase"),
        (("up", "--data", "no-such-file.npz"), 2, "no such file"),
        (("up", "--partition", "classes:1"), 2, "classes:3"),
        (("up", "--data", "mnist"), 2, "--data-dir DIR"),
        (("up", "--net", "mpl:128x2"), 2, "error: --net"),
        (("up", "--net", "mlp:wide"), 2, "mlp:WIDTHxDEPTH"),
        (("up", "--net", "no_such_module:net"), 2, "no module no_such_module"),
        (("up", "--net", "cnn", "--trunk", "randconv"), 2, "randconv-sqrt:K"),
        (("train", "digits", "--refine", "--sums", "auto"), 2, "--refine together with --sums"),
        (("train", "digits", "--sums", "bogus"), 2, "leave --sums out for auto"),
        (("train", "digits", "--sums-mb", "0"), 2, "--sums none"),
        (("train", "digits", "--share", "x"), 2, "leave --share out for borrow"),
        (("train", "digits", "--net", "bogus"), 2, "--net mlp:128x2"),
        (("train", "digits", "--net", "mpl:128x2"), 2, "--net mlp:128x2"),
        (("predict", "no-such-file.npy"), 2, "swarm init"),
        (
            ("predict", "x.npy", "--examples", "mine.npz", "--uniform"),
            2,
            "leave out --uniform, or --examples",
        ),
        (("federate", "average", "--net", "bogus"), 2, "--net mlp:128x2"),
        (("federate", "evaluate", "."), 2, "found:    a folder"),
        (("federate", "evaluate", "none.npz"), 2, "swarm federate average --out FILE.npz"),
        (("federate", "kmeans", "--k", "4097"), 2, "swarm federate kmeans --help"),
        (("federate", "sums", "--form", "exactly"), 2, "swarm federate sums --help"),
        (("federate", "kmeans", "--out", "no-such-folder/found.npz"), 2, "mkdir -p no-such-folder"),
        (("up", "--partition", "thirds"), 2, "dirichlet"),
        (("token", "create", "--lifetime", "soon"), 2, "45s, 10m"),
        (("token", "create", "--bearer", "app", "--uses", "3"), 2, "--uses is of join tokens"),
        (("token", "create", "--bearer", "app", "--role", "client"), 2, "--role is of join tokens"),
        (("token", "create", "--bearer", "my app"), 2, "error: --bearer"),
        (("train", "digits", "--budget", "0s"), 2, "a time above 0"),
        (("join", "TOKEN@HOST:7070", "--name", ""), 2, "leave --name out"),
        (("events", "--after", "nonsense"), 2, "swarm events --json"),
        (("registry", "--home", "elsewhere", "collect"), 2, "swarm registry collect --home DIR"),
        (("registry", "--log-text", "rebuild"), 2, "--log-json before rebuild"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_next_thing_to_try(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    done = swarm(*arguments, SWARM_HOME=str(tmp_path / "home"))
    assert done.returncode == code
    assert done.stderr.startswith("error: ") or "founding" in done.stderr
    assert said in done.stderr
    if arguments[0] in ("train", "predict", "federate"):
        assert "\n  try:      " in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


@pytest.mark.parametrize("family", ["", "gate", "token", "bench", "federate", "expert"])
def test_a_command_without_its_subcommand_prints_its_help_as_it_is(family: str) -> None:
    done = swarm(*family.split())
    asked = swarm(*family.split(), "--help")
    assert (done.returncode, asked.returncode) == (2, 0)
    assert done.stderr == asked.stdout and done.stderr.startswith("Usage: swarm") and done.stdout == ""


def test_a_family_with_json_and_no_subcommand_is_an_error_for_programs() -> None:
    done = swarm("gate", "--json")
    told = json.loads(done.stdout)
    assert (told["schema"], told["code"], told["exit_code"]) == ("swarm.error/1", "usage", done.returncode)
    assert told["try"] == "swarm gate --help"


def test_an_error_in_json_names_its_code_and_what_to_try(tmp_path: Path) -> None:
    done = swarm("status", "--json", SWARM_HOME=str(tmp_path))
    told = json.loads(done.stdout)
    assert told["schema"] == "swarm.error/1"
    assert (told["code"], told["exit_code"]) == ("not_found", done.returncode)
    assert "swarm init" in told["try"]


def test_a_service_that_nobody_runs_is_unreachable_not_a_traceback(tmp_path: Path) -> None:
    home = {
        "SWARM_HOME": str(tmp_path / "my home"),
        "SWARM_COORDINATOR_PORT": "1",
        "SWARM_REGISTRY_PORT": "1",
    }
    founded = swarm(
        "init", "demo", "--input-shape", "4", "--classes", "a,b", "--trunk", "identity", "--json", **home
    )
    assert founded.returncode == 0, founded.stderr
    assert "@127.0.0.1:7070" in json.loads(founded.stdout)["join_line"]
    for arguments in (("status",), ("gate", "show"), ("experts",), ("token", "list"), ("events",)):
        done = swarm(*arguments, **home)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
    sick = swarm("doctor", "--json", **home)
    checks = {check["name"]: check for check in json.loads(sick.stdout)["checks"]}
    assert sick.returncode == 5
    assert checks["this identity's certificate"]["ok"] and not checks["coordinator"]["ok"]
    assert all(check["remedy"] for check in checks.values() if not check["ok"])
    for service in ("registry", "coordinator"):
        wanted = f"swarm {service} --port 1 --home '{home['SWARM_HOME']}'"
        assert checks[service]["remedy"] == wanted
    for file, code, said in (("no folder/b", 2, f"mkdir -p '{tmp_path}/no folder'"), ("b", 6, "--overwrite")):
        (tmp_path / "b").write_text("an earlier one")
        done = swarm("backup", str(tmp_path / file), **home)
        assert done.returncode == code and said in done.stderr, done.stderr
    assert (tmp_path / "b").read_text() == "an earlier one"
    again = swarm("init", "demo", "--input-shape", "4", "--classes", "a,b", "--trunk", "identity", **home)
    assert again.returncode == 6 and "a swarm already" in again.stderr
