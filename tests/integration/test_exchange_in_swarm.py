"""`swarm export` and `swarm import` between real nodes, and into another swarm."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from swarm.config import NodeHome
from swarm.domain.agent import TrainOrder
from swarm.domain.ids import NodeId
from swarm.domain.inference import Query
from swarm.domain.manifests import Manifest
from swarm.modules.blobs import BlobFiles
from swarm.trust.statements import read_statement
from tests.support.exchange import Made, made_expert
from tests.support.forked_processes import ENVIRONMENT, ROOT, run_process
from tests.support.learning import digits_like
from tests.support.node_homes import write_digits
from tests.support.whole_swarm import WholeSwarm, agent_of, carried_out, until, whole_swarm

IMAGES, LABELS = digits_like(40, 4, seed=77)


def command(home: Path, *words: str, code: int = 0) -> dict:
    """Return what a command says with --json; it has to end with the code."""
    done = run_process("swarm.cli", *words, "--home", str(home), "--json")
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    told: dict = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeSwarm]:
    with whole_swarm(tmp_path_factory.mktemp("exchange")) as running:
        for name, only, share in (("rose", (0, 1), "borrow"), ("tulip", (2, 3), "serve-only")):
            home = running.joined(name)
            running.agent(home)
            data = write_digits(running.folder / f"{name}.npz", count=300, only=only)
            order = TrainOrder(data=str(data), net="mlp:16x1", steps=150, share=share)  # type: ignore[arg-type]
            asyncio.run(trained(home, order))
        running.agent(running.joined("lily"))
        yield running


async def trained(home: NodeHome, order: TrainOrder) -> None:
    async with agent_of(home) as client:
        await carried_out(client, order)


@pytest.fixture(scope="module")
def exported(swarm: WholeSwarm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "rose"
    told = command(swarm.folder / "lily", "export", "rose.e1@1", "--to", str(folder))
    assert (told["schema"], told["expert"], told["owner"]) == ("swarm.export/1", "rose.e1", "rose")
    assert set(told["files"]) == {"model.safetensors", "manifest.json", "README.md"}
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    made = made_expert(folder / "swarm", "mlp:24x1", class_names=("0", "1", "elm"), corrected=False)
    return made, made.export(folder / "out").folder


def test_anybody_reads_the_weights_and_the_owner_tells_its_counts(
    swarm: WholeSwarm, exported: Path, tmp_path: Path
) -> None:
    assert set(load_file(exported / "model.safetensors")) == {
        *("hidden1.weight", "hidden1.bias", "head.weight", "head.bias")
    }
    assert "known to its owner" in (exported / "README.md").read_text()
    own = command(swarm.folder / "rose", "export", "rose.e1", "--to", str(tmp_path / "own"))
    card = (tmp_path / "own" / "README.md").read_text()
    assert own["digest"] and "known to its owner" not in card and "training samples;" in card
    sent = command(swarm.folder / "rose", "outbound")["listings"][-1]
    assert (sent["what"], sent["recipient"]) == ("export", f"folder {tmp_path / 'own'}")
    by_digest = command(swarm.home.root, "export", own["digest"], "--to", str(tmp_path / "digest"))
    assert by_digest["digest"] == own["digest"]
    private = np.load(swarm.folder / "rose.npz")["x"]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any(row.tobytes() in written for row in private if row.any())


def test_every_command_takes_an_expert_a_version_and_a_digest(swarm: WholeSwarm, exported: Path) -> None:
    lily, digest = swarm.folder / "lily", digest_of_export(exported)
    for name in ("rose.e1", "rose.e1@1", digest):
        assert command(lily, "expert", "show", name)["digest"] == digest
        assert command(lily, "expert", "pull", name)["digest"] == digest
        nodes = command(lily, "lineage", name)["lineage"]["nodes"]
        assert digest in {node["manifest"] for node in nodes}
    for words in (("expert", "show"), ("expert", "pull"), ("lineage",)):
        assert command(lily, *words, digest[:12], code=2)["found"] == "the beginning of a digest"


def test_a_folder_that_is_not_empty_stays_without_force(swarm: WholeSwarm, exported: Path) -> None:
    told = command(swarm.folder / "lily", "export", "rose.e1", "--to", str(exported), code=6)
    assert "--force" in told["try"]
    command(swarm.folder / "lily", "export", "rose.e1", "--to", str(exported), "--force")


def test_what_its_owner_keeps_is_exported_by_the_owner_alone(swarm: WholeSwarm, tmp_path: Path) -> None:
    for home in (swarm.folder / "lily", swarm.home.root):
        told = command(home, "export", "tulip.e1", "--to", str(tmp_path / "out"), code=4)
        assert "tulip.e1@1" in told["subject"] and told["found"] == "share serve-only"
    assert not (tmp_path / "out").exists()
    command(swarm.folder / "tulip", "export", "tulip.e1", "--to", str(tmp_path / "out"), "--license", "mit")
    assert "Licence: mit" in (tmp_path / "out" / "README.md").read_text()
    told = command(swarm.folder / "lily", "import", str(tmp_path / "out"), code=4)
    assert told["found"] == "share serve-only"


def test_a_licence_is_its_owners_to_give(swarm: WholeSwarm, tmp_path: Path) -> None:
    words = ("export", "rose.e1", "--to", str(tmp_path / "out"), "--license", "mit")
    assert "only an owner" in command(swarm.folder / "lily", *words, code=2)["expected"]


def test_checking_needs_no_swarm_and_says_who_made_it(
    exported: Path, swarm: WholeSwarm, tmp_path: Path
) -> None:
    told = command(tmp_path, "import", str(exported), "--check")
    assert (told["state"], told["owner"], told["swarm"]) == ("checked", "rose", "garden")
    assert "nobody here knows that CA" in told["notes"][0]
    assert command(swarm.folder / "lily", "import", str(exported), "--check")["notes"] == ["of this swarm"]


async def test_back_in_its_swarm_it_is_kept_heals_the_registry_and_stands_in_for_its_owner(
    swarm: WholeSwarm, exported: Path
) -> None:
    manifest = read_statement(
        (swarm.folder / "rose" / "state" / "manifests" / f"{digest_of_export(exported)}.json").read_bytes(),
        Manifest,
    ).value
    stored = BlobFiles(swarm.home.registry / "blobs")
    lost = manifest.blobs()[0]
    stored.remove(lost)
    told = command(swarm.folder / "lily", "import", str(exported))
    assert (told["state"], told["sent_blobs"]) == ("kept", 1)
    assert stored.has(lost)
    assert all(BlobFiles(NodeHome(swarm.folder / "lily").cache).has(blob) for blob in manifest.blobs())
    claims = swarm.home.registry / "claims.jsonl"
    before = claims.read_bytes()
    assert command(swarm.folder / "lily", "import", str(exported))["sent_blobs"] == 0
    assert claims.read_bytes() == before, "nobody will commit what an import claims"
    assert command(swarm.home.root, "import", str(exported))["state"] == "known"

    swarm.agents[0].kill()
    swarm.agents[0].wait()

    async def lily_answers() -> bool:
        async with swarm.coordinator() as client:
            query = Query(inputs=IMAGES[LABELS < 2], explain=True, top_k=1, combination="gate")
            answer = await client.predict(query)
        by = {(source.expert, source.served_by) for row in answer.sources for source in row}
        return ("rose.e1", "lily") in by

    await until(lily_answers, 40)
    swarm.agents[0] = swarm.agent(NodeHome(swarm.folder / "rose"))


def digest_of_export(folder: Path) -> str:
    from swarm.exchange.folder import read_export

    return read_export(folder).proven.manifest.digest


def test_another_swarms_expert_is_refused_until_it_is_trusted(
    swarm: WholeSwarm, foreign: tuple[Made, Path], tmp_path: Path
) -> None:
    _, folder = foreign
    told = command(swarm.folder / "lily", "import", str(folder), code=7)
    assert "ada.e1@1 by ada of swarm plants" in told["found"] and "--trust-foreign" in told["try"]
    assert not list((swarm.folder / "lily" / "state").glob("starts/*"))
    refused = command(swarm.home.root, "import", str(folder), "--trust-foreign", code=2)
    assert "a node's" in refused["expected"]
    other = made_expert(tmp_path / "swarm", "mlp:8x1", shape=(5, 5)).export(tmp_path / "out").folder
    told = command(swarm.folder / "lily", "import", str(other), "--trust-foreign", code=2)
    assert "[5, 5]" in told["found"]


def test_training_starts_from_a_trusted_expert_and_its_lineage_names_it(
    swarm: WholeSwarm, foreign: tuple[Made, Path], tmp_path: Path
) -> None:
    made, folder = foreign
    home = swarm.folder / "lily"
    data = write_digits(tmp_path / "lily.npz", count=300, seed=5, only=(0, 1))
    digest = made.statement.digest
    assert (
        "nothing was imported here" in command(home, "train", str(data), "--start", digest, code=2)["found"]
    )
    told = command(home, "import", str(folder), "--trust-foreign")
    assert told["state"] == "start" and told["notes"][-1] == f"next: swarm train DATA --start {digest[:12]}"
    assert any("raw * 0.0625 + -0.25" in note for note in told["notes"])
    both = command(home, "train", str(data), "--start", digest[:12], "--net", "cnn", code=2)
    assert "--start together with --net" in both["found"]
    command(home, "train", str(data), "--start", digest[:12], "--steps", "100")
    manifest = command(home, "expert", "show", "lily.e1")["manifest"]
    assert manifest["parents"] == [{"kind": "borrowed-from", "manifest": digest}]
    assert manifest["net"]["factory"] == "mlp:24x1"
    edges = command(home, "lineage", "lily.e1")["lineage"]["edges"]
    assert {"kind": "borrowed-from", "parent": digest}.items() <= edges[0].items()
    again = command(home, "train", str(data), "--start", digest[:12], "--steps", "100")
    assert "was not used" in again["message"]


def test_the_guides_commands_run_as_they_stand(
    swarm: WholeSwarm, foreign: tuple[Made, Path], tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "guides" / "export.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    shutil.copytree(foreign[1], tmp_path / "other-e1")
    write_digits(tmp_path / "my.npz", count=300, seed=6, only=(0, 1))
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks).replace("ada.e1", "rose.e1")],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": tools, "SWARM_HOME": str(swarm.folder / "lily")},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("verified: signed by rose of swarm garden") == 2


def test_what_was_withdrawn_is_neither_exported_nor_taken_back(
    swarm: WholeSwarm, exported: Path, tmp_path: Path
) -> None:
    command(swarm.folder / "rose", "expert", "remove", "rose.e1", "--no-wait")
    told = command(
        swarm.folder / "lily", "export", digest_of_export(exported), "--to", str(tmp_path / "out"), code=4
    )
    assert "withdrawn" in told["found"]
    assert "withdrawn" in command(swarm.folder / "lily", "import", str(exported), code=4)["found"]


def test_a_node_signs_its_folder_and_who_changes_a_file_is_noticed(swarm: WholeSwarm, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    folder = tmp_path / "out"
    assert command(swarm.folder / "tulip", "export", "tulip.e1", "--to", str(folder), "--sign")["signed"]
    moved = folder.rename(tmp_path / "moved")
    told = command(tmp_path, "import", str(moved), "--check")
    assert told["notes"][-1] == "model.sig is by node tulip"
    (moved / "added.txt").write_text("by somebody else")
    told = command(tmp_path, "import", str(moved), "--check", code=7)
    assert "model.sig" in told["subject"]
    refused = command(swarm.home.root, "export", "coordinator.e0", "--to", str(folder), "--sign", code=4)
    assert "a node's" in refused["expected"]


def test_the_root_is_exported_too(swarm: WholeSwarm, tmp_path: Path) -> None:
    told = command(swarm.home.root, "export", "coordinator.e0", "--to", str(tmp_path / "root"))
    assert told["owner"] == "coordinator"
    assert "not in plain torch here" in (tmp_path / "root" / "README.md").read_text()
    assert command(tmp_path, "import", str(tmp_path / "root"), "--check")["expert"] == "coordinator.e0"


def test_of_who_left_or_was_revoked_nothing_is_pulled_or_exported_and_it_is_said_since_when(
    swarm: WholeSwarm, tmp_path: Path
) -> None:
    """The last: two are gone then. What they signed is here already, whole, and the signatures verify."""
    asyncio.run(_taught(swarm, "iris"))
    asyncio.run(_taught(swarm, "poppy"))
    lily, operator = swarm.folder / "lily", swarm.home.root
    of_iris = command(lily, "expert", "pull", "iris.e1")["digest"]
    of_poppy = command(lily, "expert", "pull", "poppy.e1")["digest"]
    command(swarm.folder / "iris", "leave")

    async def revoke() -> None:
        async with swarm.coordinator() as client:
            await client.revoke_node(NodeId("poppy"), "its key was stolen")

    asyncio.run(revoke())
    for digest, name, why in ((of_iris, "iris", ": left"), (of_poppy, "poppy", ": its key was stolen")):
        for home in (lily, operator):
            for words in (("expert", "pull", digest), ("export", digest, "--to", str(tmp_path / "out"))):
                told = command(home, *words, code=4)
                assert told["subject"] == f"{name}.e1@1"
                since = r"on [0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}"
                assert re.fullmatch(
                    f"an expert of {name}, who left or was revoked {since}{why}", told["found"]
                ), told
    assert not (tmp_path / "out").exists()
    assert command(lily, "expert", "pull", "tulip.e1", code=4)["found"] == "share serve-only", (
        "others still count"
    )


async def _taught(swarm: WholeSwarm, name: str) -> None:
    home = swarm.joined(name)
    swarm.agent(home)
    data = write_digits(swarm.folder / f"{name}.npz", count=300, only=(0, 1))
    await trained(home, TrainOrder(data=str(data), net="mlp:16x1", steps=50))


def test_an_owner_gets_its_own_expert_also_while_the_coordinator_is_away(swarm: WholeSwarm) -> None:
    """After the last: nobody says who was revoked any more."""
    swarm.kill("coordinator")
    done = run_process("swarm.cli", "expert", "pull", "tulip.e1", "--home", str(swarm.folder / "tulip"))
    assert done.returncode == 0, done.stderr
    assert "nobody says who was revoked by now: coordinator" in done.stderr
    told = command(swarm.folder / "lily", "expert", "pull", "rose.e1@1", code=3)
    assert "coordinator" in told["subject"], "who is not known here cannot be verified"
