"""Where the registry's blobs lie, as its setting says it."""

from pathlib import Path

import pytest

from swarm.cli.settings import blob_place, load_settings
from swarm.domain.errors import UsageError


def test_a_blob_place_is_a_folder_or_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "blobs"
    assert blob_place("", own) == (own, "")
    assert blob_place("/srv/blobs", own) == (Path("/srv/blobs"), "")
    assert blob_place("s3://bucket/prefix", own) == (own, "s3://bucket/prefix")
    monkeypatch.setenv("SWARM_REGISTRY_BLOBS", "s3://bucket")
    assert load_settings(tmp_path).registry_blobs == "s3://bucket"
    assert load_settings(tmp_path, registry_blobs="/srv/blobs").registry_blobs == "/srv/blobs"


def test_another_kind_of_address_is_refused_without_its_secrets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX") as caught:
        blob_place("https://me:secret@bucket", tmp_path)
    assert "secret" not in str(caught.value)
