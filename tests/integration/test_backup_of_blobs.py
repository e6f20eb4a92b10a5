"""`swarm backup` takes the weights along wherever the registry has them, or says that it does not."""

import asyncio
import shutil
import tarfile
import time
from pathlib import Path

from coordinator.bearer_tokens import BearerTokens
from swarm.cli.up.supervisor import free_ports
from swarm.domain.ids import NodeId
from swarm.modules.blobs import BlobFiles
from swarm.trust.signing import Signer
from tests.support.commands import shell


def names_in(file: Path) -> set[str]:
    with tarfile.open(file) as stored:
        return set(stored.getnames())


def test_weights_in_a_folder_that_only_the_registry_was_told_of_are_in_the_backup() -> None:
    with shell() as sh:
        root = sh.scratch.with_name("r")
        home, other, port = root / "home", root / "other", str(free_ports(1)[0])
        sh.json("init", "lab", "--data", "digits", "--host", "127.0.0.1", "--home", str(home))
        blob = BlobFiles(other).put(b"weights")
        bearers = BearerTokens(home / "coordinator" / "bearer-tokens", Signer.generate(), time.time)
        asyncio.run(bearers.create(NodeId("app"), 60.0, "key"))
        with (
            sh.until("redis.ready", "redis", "--home", str(home)),
            sh.until(
                "registry.ready", "registry", "--home", str(home), "--port", port, "--blobs", str(other)
            ) as registry,
        ):
            registry.process.terminate()
            registry.process.communicate(timeout=60)
            told = sh.json("backup", str(root / "whole.tgz"), "--home", str(home))
            assert (told["blobs"], told["blob_place"]) == (True, str(other))
            assert f"registry/blobs/{blob[:2]}/{blob}" in names_in(root / "whole.tgz")

            bucket = {"SWARM_REGISTRY_BLOBS": "s3://bucket/prefix"}
            told = sh.json("backup", str(root / "less.tgz"), "--home", str(home), **bucket)
            assert (told["blobs"], told["blob_place"]) == (False, "s3://bucket/prefix")
            asked = ("backup", str(root / "asked.tgz"), "--home", str(home), "--blobs")
            assert sh.json(*asked, code=2, **bucket)["subject"] == "--blobs"

            shutil.rmtree(other)
            refused = sh.json("backup", str(root / "none.tgz"), "--home", str(home), code=2)
            assert str(other) in refused["subject"] and "--no-blobs" in refused["try"]
            assert not (root / "none.tgz").exists()
            sh.json("backup", str(root / "without.tgz"), "--home", str(home), "--no-blobs")

        restored = sh.swarm("restore", str(root / "whole.tgz"), "--home", str(root / "restored"))
        assert restored.returncode == 0, restored.stderr
        assert "1 bearer tokens do not count any more" in restored.stderr
        assert BlobFiles(root / "restored" / "registry" / "blobs").open_verified(blob) == b"weights"
        restored = sh.swarm("restore", str(root / "less.tgz"), "--home", str(root / "second"))
        assert "not in this backup" in restored.stderr
