"""One blob from several holders: liars and sluggards are dropped by name, and the blob arrives."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.errors import (
    DeadlineError,
    ExhaustedError,
    NotAuthorisedError,
    NotFoundError,
    SwarmError,
    UnreachableError,
    VerificationError,
)
from swarm.domain.ids import Digest
from swarm.modules import BlobFiles
from swarm.modules.outlines import BLOCK_BYTES, CHUNK_BYTES, Outline, blocks_in, outline_of
from swarm.transfer import Holders, Patience, download
from swarm.transfer.blocks import Assignment

DATA = random.Random(7).randbytes(5 * BLOCK_BYTES + 99)
NAME = digest_of(DATA)
SHORT = Patience(alone_s=0.2, idle_s=0.05, late_s=60)


class Source:
    """A holder in memory: what it serves, and how it fails."""

    def __init__(
        self, name: str, data: bytes = DATA, *, outline: bytes | None = None, breaks: Sequence[int] = ()
    ) -> None:
        self.name, self._data, self._outline_data = name, data, data if outline is None else outline
        self._breaks = list(breaks)
        """After how many bytes each stream breaks off, the first one first."""
        self.sent = 0
        self.outlines = 0
        self.refusal: SwarmError | None = None
        self.hangs_after: int | None = None
        self.chunk_bytes = CHUNK_BYTES
        self.tail = b""

    async def outline(self, blob: Digest) -> Outline:
        self.outlines += 1
        if self.refusal is not None:
            raise self.refusal
        return outline_of(memoryview(self._outline_data))

    async def read(self, blob: Digest, offset: int, length: int) -> AsyncIterator[bytes]:
        if self.refusal is not None:
            raise self.refusal
        until = self._breaks.pop(0) if self._breaks else None
        sent, data = 0, (self._data[offset : offset + length] if length else self._data[offset:]) + self.tail
        for start in range(0, len(data), self.chunk_bytes):
            if until is not None and sent >= until:
                raise UnreachableError(self.name, found="a broken line")
            if self.hangs_after is not None and self.sent >= self.hangs_after:
                await asyncio.Event().wait()
            chunk = data[start : start + self.chunk_bytes]
            sent, self.sent = sent + len(chunk), self.sent + len(chunk)
            await asyncio.sleep(0)
            yield chunk


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.fixture
def files(tmp_path: Path) -> BlobFiles:
    return BlobFiles(tmp_path)


async def fetched(
    files: BlobFiles, *sources: Source, patience: Patience | None = None, data: bytes = DATA
) -> tuple[dict[str, str], int]:
    """Download; return who was dropped and why, and the sum of what progress was told."""
    holders, told = Holders(sources), list[int]()
    blob = digest_of(data)
    await download(blob, len(data), holders, files, patience=patience, on_bytes=told.append)
    assert bytes(files.open_verified(blob)) == data
    assert list((files.folder / "incoming").iterdir()) == []
    return holders.dropped, sum(told)


async def test_several_holders_share_the_work_and_every_byte_comes_once(files: BlobFiles) -> None:
    sources = [Source(name) for name in ("registry", "ada", "bob")]
    assert await fetched(files, *sources) == ({}, len(DATA))
    assert sum(source.sent for source in sources) == len(DATA)
    assert all(source.sent for source in sources)


async def test_one_holder_from_the_start_is_not_asked_for_an_outline(files: BlobFiles) -> None:
    registry = Source("registry")
    assert await fetched(files, registry) == ({}, len(DATA))
    assert (registry.outlines, registry.sent) == (0, len(DATA))


@pytest.mark.parametrize("count", [1, 2])
async def test_what_broke_off_says_how_much_is_kept_and_so_does_the_next_try_that_finds_nobody(
    files: BlobFiles, count: int
) -> None:
    one = DATA[: 2 * BLOCK_BYTES]
    sources = [Source(f"holder {number}", one, breaks=[BLOCK_BYTES, 0, 0]) for number in range(count)]
    if count == 2:
        sources[1].refusal = UnreachableError("holder 1", found="nobody listens there")
    for _ in range(2):
        with pytest.raises(UnreachableError) as broken:
            await download(digest_of(one), len(one), Holders(sources), files)
        assert f"{BLOCK_BYTES} of {len(one)} bytes: run it again" in broken.value.remedy
        sources[0].refusal = UnreachableError("holder 0", found="nobody listens there")


async def test_what_the_registry_lacks_and_nodes_do_not_give_is_not_found(files: BlobFiles) -> None:
    sources = [Source("registry"), Source("ada")]
    sources[0].refusal, sources[1].refusal = NotFoundError("blob"), NotAuthorisedError("blob")
    with pytest.raises(NotFoundError, match="registry"):
        await download(NAME, len(DATA), Holders(sources), files)


async def test_where_nothing_came_nothing_is_said_to_be_kept(files: BlobFiles) -> None:
    source = Source("registry", breaks=[0, 0])
    with pytest.raises(UnreachableError) as broken:
        await download(NAME, len(DATA), Holders([source]), files)
    assert "kept" not in broken.value.remedy


@pytest.mark.parametrize("data", [b"", b"x", DATA[:BLOCK_BYTES], DATA[: BLOCK_BYTES + 1]], ids=len)
@pytest.mark.parametrize("count", [1, 2])
async def test_blobs_of_every_size_arrive(files: BlobFiles, data: bytes, count: int) -> None:
    sources = [Source(f"holder {number}", data) for number in range(count)]
    assert await fetched(files, *sources, data=data) == ({}, len(data))


@pytest.mark.parametrize("position", [0, BLOCK_BYTES - 1, BLOCK_BYTES, len(DATA) - 1])
@pytest.mark.parametrize("liar_is_first", [True, False])
async def test_a_holder_that_flips_a_bit_is_dropped_after_its_first_bad_block(
    files: BlobFiles, position: int, liar_is_first: bool
) -> None:
    liar = Source("liar", bytes(byte ^ 1 for byte in DATA[:64]) + DATA[64:], outline=DATA)
    if position >= 64:
        liar = Source("liar", flipped(DATA, position), outline=DATA)
    pair = [liar, Source("registry")] if liar_is_first else [Source("registry"), liar]
    dropped, told = await fetched(files, *pair)
    assert told == len(DATA)
    if dropped:
        assert list(dropped) == ["liar"] and "by its own outline" in dropped["liar"]
        assert pair[1 - pair.index(liar)].sent < len(DATA) + BLOCK_BYTES


async def test_a_holder_that_lies_everywhere_is_dropped_after_one_block(files: BlobFiles) -> None:
    liar = Source("liar", bytes(len(DATA)), outline=DATA)
    registry = Source("registry")
    dropped, _ = await fetched(files, liar, registry)
    assert list(dropped) == ["liar"]
    assert liar.sent <= BLOCK_BYTES + CHUNK_BYTES and registry.sent == len(DATA)


async def test_a_false_outline_drops_all_who_gave_it_and_nobody_else(files: BlobFiles) -> None:
    false = flipped(DATA, 2 * BLOCK_BYTES)
    liars = [Source("liar 1", false), Source("liar 2", false)]
    honest = Source("ada")
    dropped, told = await fetched(files, *liars, honest)
    assert set(dropped) == {"liar 1", "liar 2"}
    assert told == len(DATA)
    assert honest.sent == BLOCK_BYTES, "only where the outlines differ is anything fetched again"


async def test_when_all_lie_the_error_names_each_and_nothing_stays(files: BlobFiles) -> None:
    sources = [Source("ada", flipped(DATA, 1)), Source("bob", flipped(DATA, 2))]
    with pytest.raises(VerificationError, match=r"ada: bytes with digest .*; bob: bytes with digest"):
        await fetched(files, *sources)
    assert not files.has(NAME) and list((files.folder / "incoming").iterdir()) == []
    with pytest.raises(VerificationError, match="blob from ada"):
        await fetched(files, sources[0])


async def test_a_holder_that_stands_still_is_dropped_and_the_others_finish(files: BlobFiles) -> None:
    slow, registry = Source("slow"), Source("registry")
    slow.hangs_after = BLOCK_BYTES // 2
    dropped, told = await fetched(files, slow, registry, patience=SHORT)
    assert list(dropped) == ["slow"] and "nothing for 0.05 s" in dropped["slow"]
    assert told == registry.sent == len(DATA)


async def test_a_holder_that_trickles_is_dropped_at_its_first_late_block(files: BlobFiles) -> None:
    ticks = iter(range(1_000_000))
    slow, registry = Source("slow"), Source("registry")
    slow.chunk_bytes = 4096  # a thousand messages for a block, each a tick of the clock
    holders = Holders([slow, registry])
    await download(
        NAME, len(DATA), holders, files, patience=Patience(late_s=0.0, times=20), clock=lambda: next(ticks)
    )
    assert bytes(files.open_verified(NAME)) == DATA
    assert list(holders.dropped) == ["slow"] and "while others are faster" in holders.dropped["slow"]
    assert slow.sent < 2 * BLOCK_BYTES


async def test_alone_a_slow_holder_is_as_slow_as_it_is_but_not_silent(files: BlobFiles) -> None:
    ticks = iter(range(1_000_000))
    slow = Source("slow")
    slow.chunk_bytes = 4096
    await download(
        NAME, len(DATA), Holders([slow]), files, patience=Patience(late_s=0.0), clock=lambda: next(ticks)
    )
    files.remove(NAME)
    slow.hangs_after = slow.sent + BLOCK_BYTES
    with pytest.raises(DeadlineError, match=r"slow: found nothing for 0\.2 s"):
        await fetched(files, slow, patience=SHORT)


@settings(max_examples=6, deadline=None)
@given(breaks=st.lists(st.integers(0, len(DATA)), min_size=1, max_size=4))
async def test_a_broken_transfer_goes_on_where_it_stopped(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int]
) -> None:
    files, source = BlobFiles(tmp_path_factory.mktemp("blobs")), Source("registry", breaks=breaks)
    for _ in range(len(breaks) + 1):
        try:
            await fetched(files, source)
            break
        except UnreachableError:
            assert not files.has(NAME)
    assert files.has(NAME)
    assert source.sent <= len(DATA) + len(breaks) * (BLOCK_BYTES + CHUNK_BYTES)


async def test_another_holder_goes_on_where_the_first_one_stopped(files: BlobFiles) -> None:
    registry, peer = Source("registry", breaks=[3 * BLOCK_BYTES, 0, 0]), Source("ada")
    with pytest.raises(UnreachableError, match="broken line"):
        await fetched(files, registry)
    assert await fetched(files, peer) == ({}, len(DATA))
    assert peer.sent == len(DATA) - 3 * BLOCK_BYTES


async def test_a_damaged_or_foreign_beginning_is_fetched_again(files: BlobFiles) -> None:
    with files.partial(NAME, len(DATA)) as partial:
        partial.write_at(0, flipped(DATA[: 3 * BLOCK_BYTES], BLOCK_BYTES))
    registry = Source("registry")
    assert await fetched(files, registry) == ({}, len(DATA))
    assert registry.sent == len(DATA) - 2 * BLOCK_BYTES


async def test_a_holder_without_the_blob_is_no_liar(files: BlobFiles) -> None:
    empty = Source("bob")
    empty.refusal = NotFoundError(f"blob {NAME[:12]}", found="nothing under this digest")
    assert await fetched(files, empty, Source("registry")) == ({}, len(DATA))
    files.remove(NAME)
    with pytest.raises(NotFoundError, match="nothing under this digest"):
        await fetched(files, empty)
    with pytest.raises(NotFoundError, match="nobody"):
        await fetched(files)


async def test_of_different_troubles_each_is_named(files: BlobFiles) -> None:
    empty, broken = Source("ada"), Source("bob")
    empty.refusal = NotFoundError("blob", found="nothing under this digest")
    broken.refusal = UnreachableError("bob", found="no process that listens there")
    with pytest.raises(UnreachableError, match="ada: nothing under this digest; bob: no process"):
        await fetched(files, empty, broken)


async def test_a_holder_that_sends_more_or_less_than_asked_is_refused(files: BlobFiles) -> None:
    generous, miser = Source("generous"), Source("miser", DATA[:-1], outline=DATA)
    generous.tail = b"more"
    dropped, _ = await fetched(files, generous, Source("registry"))
    assert list(dropped) in ([], ["generous"])
    files.remove(NAME)
    dropped, _ = await fetched(files, Source("ada"), data=DATA[:-1])
    assert list(dropped) == ["ada"] and "more bytes than were asked for" in dropped["ada"]
    with pytest.raises(VerificationError, match=f"ada: {len(DATA)} bytes; bob: {len(DATA)} bytes"):
        await fetched(files, Source("ada"), Source("bob"), data=DATA[:-1])
    with pytest.raises(SwarmError, match="an end amid blob"):
        await fetched(files, miser)


async def test_a_full_disk_is_no_holders_fault(files: BlobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    from swarm.modules import partial_blobs

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(partial_blobs.os, "pwrite", full)
    holders = Holders([Source("ada"), Source("bob")])
    with pytest.raises(ExhaustedError, match="No space left"):
        await download(NAME, len(DATA), holders, files)
    assert holders.dropped == {}


@settings(max_examples=50, deadline=None)
@given(blocks=st.sets(st.integers(0, 30)), names=st.sets(st.sampled_from("abcd"), min_size=1), data=st.data())
def test_whoever_fails_whenever_every_block_comes_once(
    blocks: set[int], names: set[str], data: st.DataObject
) -> None:
    working, left, came = sorted(names), Assignment(blocks, sorted(names)), Counter[int]()
    while not left.is_done and working:
        name = data.draw(st.sampled_from(working))
        run = left.next_run(name)
        assert run == list(range(run[0], run[0] + len(run))) if run else True
        for block in run[: data.draw(st.integers(1, len(run))) if run else 0]:
            if left.is_next(name, block):
                came[block] += 1
                left.done(name)
        if len(working) > 1 and data.draw(st.booleans()):
            working.remove(name)
            left.drop(name)
    assert came == Counter(dict.fromkeys(blocks, 1))


def test_an_outline_has_a_digest_for_each_block() -> None:
    outline = outline_of(memoryview(DATA))
    assert len(outline.blocks) == blocks_in(len(DATA)) == 6
    assert outline.blocks[5] == digest_of(DATA[5 * BLOCK_BYTES :])
    with pytest.raises(SwarmError, match="5 blocks; expected 6"):
        Outline(len(DATA), outline.blocks[:5])
