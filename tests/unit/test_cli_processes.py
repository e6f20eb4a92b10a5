"""`swarm down` ends exactly what was recorded, and nothing that merely has the same process id."""

import json
import subprocess
import sys
from pathlib import Path

from swarm.cli.processes import record_process, recorded, recorded_processes, stop_recorded


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_recorded_processes_are_ended_the_last_started_first(tmp_path: Path) -> None:
    first, second = sleeper(), sleeper()
    record_process(tmp_path, "first", first.pid)
    record_process(tmp_path, "second", second.pid)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    record_process(tmp_path, "second", second.pid, str(scratch))
    assert stop_recorded(tmp_path) == ["second", "first"]
    first.wait(5), second.wait(5)  # the one that ended them may have taken their exit codes
    assert not scratch.exists() and recorded_processes(tmp_path) == []


def test_what_others_need_is_ended_last_whatever_started_first(tmp_path: Path) -> None:
    processes = {name: sleeper() for name in ("coordinator", "redis", "node", "registry")}
    for name, process in processes.items():
        record_process(tmp_path, name, process.pid)
    assert stop_recorded(tmp_path) == ["node", "coordinator", "registry", "redis"]
    for process in processes.values():
        process.wait(5)


def test_a_process_that_only_has_the_same_id_is_left_alone(tmp_path: Path) -> None:
    other = sleeper()
    try:
        path = record_process(tmp_path, "node", other.pid)
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "started": record["started"] - 3600}))
        assert stop_recorded(tmp_path) == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_service_is_recorded_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with recorded(tmp_path, "registry"):
        assert [record.name for _, record in recorded_processes(tmp_path)] == ["registry"]
    assert recorded_processes(tmp_path) == []


def test_damaged_records_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "odd.process.json").write_text("{not json")
    (tmp_path / "old.process.json").write_text('{"name": "x"}')
    assert stop_recorded(tmp_path) == []
