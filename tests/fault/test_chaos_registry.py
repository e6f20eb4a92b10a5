"""A short version of each part of `make chaos-registry`: real processes, killed, cut, starved and frozen."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import benchmarks.chaos_registry.__main__ as bench
from benchmarks.chaos_registry.coordinator_kills import COORDINATOR_POINTS, coordinator_at_every_point
from benchmarks.chaos_registry.damaging import append_only_file
from benchmarks.chaos_registry.killing import REGISTRY_POINTS, at_every_point, redis_under_load
from benchmarks.chaos_registry.outbox_kills import NODE_POINTS, outbox_exactly_once
from benchmarks.chaos_registry.site import Tally
from benchmarks.chaos_registry.sleeping import a_holder_that_slept
from benchmarks.chaos_registry.small_disks import KINDS, disks
from swarm.rpc.clients import RegistryClient


def check(tally: Tally, trials: int) -> None:
    assert tally.is_clean and tally.trials == trials, tally


async def test_every_write_of_a_holder_that_slept_past_its_lease_is_refused(tmp_path: Path) -> None:
    tally = await a_holder_that_slept(tmp_path, 1)
    check(tally, 1)
    assert tally.notes == {"frozen before its commit, refused by its fence": 1}


async def test_a_fault_that_never_happens_is_told_and_is_no_trial(tmp_path: Path) -> None:
    tally = await at_every_point(tmp_path, 1, seed=1, points=("node.outbox.done",))
    assert tally.trials == 0 and not tally.is_clean
    assert tally.missed == ["node.outbox.done: killed 0 times, not 1"]


async def test_blobs_of_withdrawn_experts_that_no_collection_removes_are_orphans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def collect_nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(RegistryClient, "collect", collect_nothing)
    tally = await at_every_point(tmp_path, 1, seed=1, points=("registry.withdraw.journaled",))
    assert tally.orphans > 0 and tally.acked_lost == 0, tally


def test_a_part_that_a_machine_forbids_fails_the_whole_and_a_part_alone_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[dict[str, float]] = []

    async def forbidden(*_: object) -> Tally:
        raise PermissionError("no mount")

    async def clean(*_: object) -> Tally:
        return Tally(trials=1, acked=1)

    monkeypatch.setattr(bench, "write_result", lambda name, figures: kept.append(figures))
    monkeypatch.setattr(bench, "PARTS", {"disks": (1, forbidden), "slept": (1, clean)})
    for words, failed in (
        (["--only", "slept"], False),
        (["--quick", "1"], True),
        (["--only", "disks"], True),
        ([], True),
    ):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        with pytest.raises(SystemExit) if failed else nullcontext():
            bench.main()
        assert bool(kept) == (not words)
    assert kept[0]["parts_left_out"] == 1 and "disks_trials" not in kept[0] and kept[0]["trials"] == 1
    assert "disks: left out, no mount" in capsys.readouterr().err


async def test_no_acknowledged_publish_is_lost_with_redis_killed_under_load(tmp_path: Path) -> None:
    check(await redis_under_load(tmp_path, 1, seed=1), 1)


async def test_a_registry_killed_between_store_and_journal_loses_nothing_and_shows_no_half(
    tmp_path: Path,
) -> None:
    tally = await at_every_point(tmp_path, 1, seed=1, points=("registry.commit.stored",))
    check(tally, 1)
    assert tally.notes == {"killed at registry.commit.stored": 1}


async def test_a_coordinator_killed_amid_a_leave_or_after_its_root_was_accepted_loses_nothing(
    tmp_path: Path,
) -> None:
    points = ("coordinator.leave.withdrawn", "coordinator.root.committed")
    tally = await coordinator_at_every_point(tmp_path, 1, seed=1, points=points)
    check(tally, 2)
    assert tally.notes == {f"killed at {point}": 1 for point in points}


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_coordinator_killed_at_every_step_leaves_all_that_it_acknowledged_and_nothing_half_done(
    tmp_path: Path,
) -> None:
    tally = await coordinator_at_every_point(tmp_path, 1, seed=5)
    check(tally, len(COORDINATOR_POINTS))
    assert tally.notes == {f"killed at {point}": 1 for point in COORDINATOR_POINTS}


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_registry_killed_at_every_step_leaves_all_that_it_acknowledged_and_no_orphan(
    tmp_path: Path,
) -> None:
    tally = await at_every_point(tmp_path, 1, seed=2)
    check(tally, len(REGISTRY_POINTS))
    assert {f"killed at {point}" for point in REGISTRY_POINTS} <= tally.notes.keys()


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_cut_or_flipped_append_only_file_is_refused_or_rebuilt_never_silently_less(
    tmp_path: Path,
) -> None:
    check(await append_only_file(tmp_path, 4, 4, seed=3), 8)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_a_full_and_a_read_only_disk_refuse_by_name_and_lose_nothing(tmp_path: Path) -> None:
    try:
        tally = await disks(tmp_path, len(KINDS))
    except PermissionError as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    check(tally, len(KINDS))


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_what_a_node_puts_into_its_outbox_arrives_once_whoever_is_killed_meanwhile(
    tmp_path: Path,
) -> None:
    tally = await outbox_exactly_once(tmp_path, 3, seed=4)
    check(tally, 3 * len(NODE_POINTS))
