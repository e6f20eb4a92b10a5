"""Where the registry's blobs lie, as its setting says it."""

from pathlib import Path

import pytest

from swarm.cli.blob_places import BlobPlace, blob_place, check_usable, known_place, note_place
from swarm.cli.settings import load_settings
from swarm.config import SwarmHome
from swarm.domain.errors import UsageError


def test_a_blob_place_is_a_folder_or_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = SwarmHome(tmp_path)
    own = home.registry / "blobs"
    assert blob_place("", home) == BlobPlace(folder=own)
    assert blob_place("/srv/blobs", home) == BlobPlace(folder=Path("/srv/blobs"))
    assert blob_place("s3://bucket/prefix", home) == BlobPlace(folder=own, url="s3://bucket/prefix")
    monkeypatch.setenv("SWARM_REGISTRY_BLOBS", "s3://bucket")
    assert load_settings(tmp_path).registry_blobs == "s3://bucket"
    assert load_settings(tmp_path, registry_blobs="/srv/blobs").registry_blobs == "/srv/blobs"


def test_another_kind_of_address_is_refused_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX") as caught:
        blob_place("https://me:secret@bucket", SwarmHome(tmp_path))
    assert "secret" not in str(caught.value)


def test_a_folder_that_is_not_absolute_lies_in_the_home_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    home = SwarmHome(tmp_path / "home")
    assert blob_place("blobs", home) == BlobPlace(folder=home.root / "blobs")


def test_what_the_registry_noted_counts_until_a_setting_says_another(tmp_path: Path) -> None:
    home = SwarmHome(tmp_path)
    home.registry.mkdir()
    assert known_place(home, "") == BlobPlace(folder=home.registry / "blobs")
    note_place(home, BlobPlace(folder=Path("/srv/blobs")))
    assert known_place(home, "") == BlobPlace(folder=Path("/srv/blobs"))
    assert known_place(home, "s3://bucket/prefix").url == "s3://bucket/prefix"


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="correct --blobs"):
        check_usable(BlobPlace(folder=tmp_path / "file" / "blobs"))
