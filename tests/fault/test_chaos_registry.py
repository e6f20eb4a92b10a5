"""A short version of each part of `make chaos-registry`: real processes, killed, cut, starved and frozen."""

from pathlib import Path

import pytest

from benchmarks.chaos_registry.coordinator_kills import COORDINATOR_POINTS, coordinator_at_every_point
from benchmarks.chaos_registry.damaging import append_only_file
from benchmarks.chaos_registry.killing import at_every_point, redis_under_load
from benchmarks.chaos_registry.outbox_kills import NODE_POINTS, outbox_exactly_once
from benchmarks.chaos_registry.site import Tally
from benchmarks.chaos_registry.sleeping import a_holder_that_slept
from benchmarks.chaos_registry.small_disks import disks


def check(tally: Tally, trials: int) -> None:
    assert tally.is_clean and tally.trials == trials, tally


async def test_every_write_of_a_holder_that_slept_past_its_lease_is_refused(tmp_path: Path) -> None:
    check(await a_holder_that_slept(tmp_path, 1), 1)


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
    check(tally, len(tally.notes))


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
        tally = await disks(tmp_path, 2)
    except PermissionError as error:
        pytest.skip(f"no tmpfs can be mounted here: {error}")
    check(tally, 2)
    assert not any("accepted" in name for name in tally.notes), tally


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_what_a_node_puts_into_its_outbox_arrives_once_whoever_is_killed_meanwhile(
    tmp_path: Path,
) -> None:
    tally = await outbox_exactly_once(tmp_path, 3, seed=4)
    check(tally, 3 * len(NODE_POINTS))
    assert not any(name.startswith("not reached") for name in tally.notes), tally
