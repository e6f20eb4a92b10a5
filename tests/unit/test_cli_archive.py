"""What a backup takes along while the swarm goes on working."""

import tarfile
from pathlib import Path

import pytest

from coordinator.bearer_tokens import BearerTokens
from swarm.cli import archive
from swarm.config import SwarmHome
from swarm.domain.errors import UnauthenticatedError
from swarm.domain.ids import NodeId, SwarmId
from swarm.trust.signing import Signer

KEPT = ("ca/ca.pem", "coordinator/gates/1.json", "registry/blobs/ab/abcd", "operator/identity.json")
LEFT_OUT = (
    "coordinator/solver/job-1/weights.npy",
    "registry/blobs/incoming/half",
    "coordinator/gates/.2.json",
)


def backup(home: Path, *, with_blobs: bool = True, blob_folder: Path | None = None) -> set[str]:
    file = home.parent / "swarm.tar.gz"
    archive.write_archive(
        file, SwarmHome(home), SwarmId("lab"), [], with_blobs=with_blobs, blob_folder=blob_folder
    )
    with tarfile.open(file) as stored:
        return set(stored.getnames()) - {"backup.json", "redis.jsonl"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in (*KEPT, *LEFT_OUT):
        path = tmp_path / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return tmp_path / "home"


def test_what_is_being_written_stays_out(home: Path) -> None:
    assert backup(home) == set(KEPT)
    assert backup(home, with_blobs=False) == {name for name in KEPT if "blobs" not in name}


def test_a_file_that_goes_while_the_backup_is_made_is_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = archive._files

    def with_one_that_goes(*arguments: SwarmHome, **options: bool) -> list[Path]:
        return [home / "coordinator" / "contributions" / "gone.bin", *listed(*arguments, **options)]

    monkeypatch.setattr(archive, "_files", with_one_that_goes)
    assert backup(home) == set(KEPT)


@pytest.mark.parametrize("inside", ["../other", "registry/other"])
def test_blobs_in_another_folder_are_kept_as_the_homes_own(home: Path, inside: str) -> None:
    other = home / inside
    for name in ("cd/cdef", "incoming/half.part"):
        (other / name).parent.mkdir(parents=True)
        (other / name).write_bytes(b"content")
    elsewhere = {*KEPT} - {"registry/blobs/ab/abcd"}
    assert backup(home, blob_folder=other.resolve()) == {*elsewhere, "registry/blobs/cd/cdef"}
    assert backup(home, with_blobs=False, blob_folder=other.resolve()) == elsewhere
    restored = SwarmHome(home.parent / "restored")
    assert not archive.read_archive(home.parent / "swarm.tar.gz", restored).blobs
    assert not (restored.registry / "blobs").exists()


async def test_a_bearer_token_that_was_revoked_after_a_backup_stays_revoked_when_it_is_restored(
    home: Path,
) -> None:
    signer = Signer.generate()

    def tokens_in(root: Path) -> BearerTokens:
        return BearerTokens(root / "coordinator" / "bearer-tokens", signer, lambda: 1000.0)

    tokens = tokens_in(home)
    made = [await tokens.create(NodeId("app"), 60.0, key) for key in ("a", "b", "c")]
    await tokens.revoke(made[0][1].id)
    (home / "coordinator" / "bearer-tokens" / "odd.json").write_bytes(b"no token")
    backup(home)
    await tokens.revoke(made[1][1].id)

    file, restored = home.parent / "swarm.tar.gz", SwarmHome(home.parent / "restored")
    assert archive.read_archive(file, restored).bearers_revoked == 2
    found = tokens_in(restored.root)
    for text, _ in made:
        with pytest.raises(UnauthenticatedError, match="revoked"):
            found.holder(text)
    text, _ = await found.create(NodeId("app"), 60.0, "d")
    assert found.holder(text) == "app" and [view.bearer for view in found.views()] == ["app"]

    as_then = SwarmHome(home.parent / "as-then")
    assert archive.read_archive(file, as_then, bearer_tokens=True).bearers_revoked == 0
    found = tokens_in(as_then.root)
    assert [found.holder(text) for text, _ in made[1:]] == ["app", "app"]
    with pytest.raises(UnauthenticatedError, match="revoked"):
        found.holder(made[0][0])
