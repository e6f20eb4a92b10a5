"""What a never-ending day says of disks: seen at each look, with an exponent beside the samples."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.results_file import RESULTS
from benchmarks.soak_growth.__main__ import main
from benchmarks.soak_growth.asking import Service
from benchmarks.soak_growth.bars import bars_of
from benchmarks.soak_growth.day import Day, Sight
from benchmarks.soak_growth.document import section
from benchmarks.soak_growth.results import draw, figures_of
from benchmarks.soak_growth.swarm_of_five import Disk, bytes_of


def day() -> Day:
    """The coordinator's disk stays as it is, the registry's grows as the samples, nodes' as their root."""
    sights = [
        Sight(
            number=number,
            samples=samples,
            accuracy={"mnist": 0.9},
            gate_version=number + 1,
            leaves=2,
            gate_bytes=1000,
            flops_per_query=1e4,
            disk=Disk(coordinator=5_000_000, registry=1000 * samples, nodes=round(1e6 * samples**0.5)),
            seconds=1.0,
        )
        for number, samples in ((9, 100), (19, 10_000), (29, 1_000_000))
    ]
    return Day(sights=sights, service=Service(asked=3, answered=3), seconds=60.0)


def story() -> Any:
    feedings = [SimpleNamespace(domain="mnist", number=number, node="ada") for number in range(30)]
    return SimpleNamespace(last_fed={"mnist": 9}, feedings=feedings, moves=[])


def test_the_growth_of_disks_is_told_beside_the_samples(tmp_path: Path) -> None:
    figures = figures_of(day(), story())
    assert figures["disk_coordinator_bytes"] == 5e6
    assert figures["growth_disk_coordinator_bytes"] == pytest.approx(0.0, abs=1e-9)
    assert figures["growth_disk_registry_bytes"] == pytest.approx(1.0)
    assert figures["growth_disk_nodes_bytes"] == pytest.approx(0.5)
    text = section(day(), story(), figures, "make soak-growth")
    assert "| on disk, registry, MB | 0.1 | 1000.0 | 1.00 |" in text
    draw(day(), tmp_path / "day.svg")
    assert "bytes on disk" in (tmp_path / "day.svg").read_text()


def published() -> dict[str, float]:
    figures: dict[str, float] = json.loads((RESULTS / "soak-growth.json").read_text())["figures"]
    return figures


def test_the_published_day_meets_every_bar() -> None:
    assert [str(bar) for bar in bars_of(published()) if not bar.is_met] == []


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"queries_unanswered": 1.0}, "every query is answered: 1 of 31356 were not"),
        ({"queries_asked": 0.0}, "every query is answered: 0 of 0 were not"),
        ({"forgetting_max": 1.01}, "at most 1 point: 1.01 points"),
        ({"growth_gate_bytes": 1.0}, "the gate grows more slowly than the samples: as their power 1.00"),
        ({"growth_flops_per_query": 1.2}, "what a query costs grows more slowly than the samples"),
    ],
)
def test_a_bar_that_is_missed_is_named(changed: dict[str, float], missed: str) -> None:
    (bar,) = [each for each in bars_of({**published(), **changed}) if not each.is_met]
    assert str(bar).startswith("MISSED: ") and missed in str(bar)


def test_a_day_without_data_says_what_to_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak_growth", "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert "mnist" in said and "--data-dir DIR" in said and "Traceback" not in said


def test_bytes_on_disk_are_those_of_all_files_below(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"123")
    (tmp_path / "a" / "b" / "two").write_bytes(b"12")
    assert bytes_of([tmp_path / "a", tmp_path / "nothing there"]) == 5
