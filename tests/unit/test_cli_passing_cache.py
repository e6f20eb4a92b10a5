"""An operator's cache: empty after use, but what a broken-off transfer brought stays for its next try."""

from pathlib import Path

import pytest

from swarm.cli.passing_cache import passing_cache
from swarm.digests import digest_of


def test_nothing_stays_of_what_was_used(tmp_path: Path) -> None:
    with passing_cache(tmp_path / "cache") as cache:
        blob = cache.put(b"weights")
        assert cache.open_verified(blob) == b"weights"
    with passing_cache(tmp_path / "cache") as cache:
        assert list(cache.digests()) == []


def test_what_came_before_an_error_is_there_for_the_next_try(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), passing_cache(tmp_path / "cache") as cache:
        blob = cache.put(b"weights")
        with cache.partial(digest_of(b"more"), 4) as partial:
            partial.write(b"mo")
        raise RuntimeError("the line broke")
    with passing_cache(tmp_path / "cache") as cache:
        assert cache.has(blob)
        with cache.partial(digest_of(b"more"), 4) as partial:
            assert partial.held_bytes == 2


def test_commands_at_the_same_time_take_nothing_from_each_other(tmp_path: Path) -> None:
    with passing_cache(tmp_path / "cache") as one:
        with passing_cache(tmp_path / "cache") as other:
            blob = other.put(b"weights")
        assert one.open_verified(blob) == b"weights"
    with passing_cache(tmp_path / "cache") as cache:
        assert not cache.has(blob)
