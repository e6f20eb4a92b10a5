"""An expert as a folder: what is in it, that nothing of it may be changed, what reads it without Swarm."""

import hashlib
import html
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from swarm.domain.errors import (
    ConflictError,
    NotFoundError,
    SwarmError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import SwarmId
from swarm.exchange.card import escaped, model_card
from swarm.exchange.folder import CARD_FILE, CORRECTION_FILE, MANIFEST_FILE, MODEL_FILE, read_export
from swarm.exchange.model_signature import SIGNATURE_FILE, verify_folder
from swarm.exchange.proof import Proof
from swarm.exchange.weights_file import write_weights
from swarm.experts.expert import LoadedExpert
from swarm.modules.blobs import BlobFiles
from tests.support.exchange import Made, made_expert

PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ALL = (MODEL_FILE, CORRECTION_FILE, MANIFEST_FILE, CARD_FILE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made_expert(tmp_path_factory.mktemp("plants"))


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    return made.export(tmp_path / "out").folder


def programs(folder: Path) -> list[str]:
    return PROGRAM.findall((folder / CARD_FILE).read_text())


def ran(program: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_what_is_exported_comes_back_with_every_blob_verified(made: Made, folder: Path) -> None:
    found = read_export(folder)
    assert {path.name for path in folder.iterdir()} == set(ALL)
    assert found.proven.manifest == made.statement and found.proven.owner == "ada"
    assert {name: bytes(data) for name, data in found.blobs.items()} == dict(made.blobs)
    assert found.proven.pin == made.founded.ca.pin
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_the_manifest_lies_in_it_as_it_was_signed(made: Made, folder: Path) -> None:
    told = json.loads((folder / MANIFEST_FILE).read_text())
    assert told["manifest"] == json.loads(made.statement.envelope)
    assert told["manifest"]["payloadType"] == "application/vnd.in-toto+json"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_the_weights_is_up_to_the_umask(
    made: Made, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        folder = made.export(tmp_path / "out").folder
        write_weights(
            tmp_path / "alone", made.statement.value.modules, lambda blob: memoryview(made.blobs[blob]), {}
        )
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(ALL, mode)
    assert stat.S_IMODE((tmp_path / "alone").stat().st_mode) == mode


def test_the_safetensors_package_reads_weights_and_metadata(made: Made, folder: Path) -> None:
    with safe_open(folder / MODEL_FILE, framework="pt") as file:
        about = file.metadata()
        assert set(file.keys()) == {
            f"{module.name}.{tensor.name}"
            for module in made.statement.value.modules
            for tensor in module.tensors
        }
    assert (about["expert"], about["version"], about["swarm"]) == ("ada.e1", "1", "plants")
    assert about["manifest"] == made.statement.digest and about["format"] == "pt"
    assert json.loads(about["class_names"]) == ["beech", "élm", "oak"]
    assert json.loads(about["net"])["factory"] == "mlp:16x2"
    assert "license" not in about


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        ("mlp:16x2", (8, 8)),
        ("linear", (5,)),
        ("cnn:4x8", (8, 8)),
        ("cnn:4x8", (16, 20, 3)),
        ("mlp:8x12", (4,)),
    ],
)
def test_the_cards_program_answers_as_the_expert_does(
    factory: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    made = made_expert(tmp_path / "swarm", factory, shape=shape)
    folder = made.export(tmp_path / "out").folder
    raw = np.random.default_rng(1).integers(0, 255, size=(6, *shape), dtype=np.uint8)
    np.save(folder / "raw.npy", raw)
    ask = (
        "\nimport numpy\n"
        "numpy.save('said.npy', probabilities(torch.from_numpy(numpy.load('raw.npy'))).numpy())\n"
        "print(class_names)\n"
    )
    done = ran(programs(folder)[0] + ask, folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['beech', 'élm', 'oak']"
    loaded = LoadedExpert.load(made.statement.value, made.read, made.specification)
    assert np.allclose(np.load(folder / "said.npy"), loaded.probabilities(raw), atol=1e-6)


def test_the_cards_program_verifies_without_swarm_and_finds_what_was_changed(
    made: Made, folder: Path
) -> None:
    program = programs(folder)[1]
    assert "swarm" not in "".join(line for line in program.splitlines() if "import" in line)
    done = ran(program, folder)
    assert done.returncode == 0, done.stderr
    assert "ada.e1 version 1 made by ada of plants" in done.stdout and made.founded.ca.pin in done.stdout
    for name in (MODEL_FILE, CORRECTION_FILE):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert "AssertionError" in ran(program, folder).stderr
        (folder / name).write_bytes(kept)
    other = json.loads((folder / MANIFEST_FILE).read_text())
    other["manifest"]["signatures"][0]["sig"] = "A" * 86 + "=="
    (folder / MANIFEST_FILE).write_text(json.dumps(other))
    assert "InvalidSignature" in ran(program, folder).stderr


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("where", [0.0, 0.02, 0.5, 1.0])
def test_a_changed_byte_in_any_file_is_refused_by_the_files_name(
    folder: Path, name: str, where: float
) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(VerificationError, match=re.escape(name)):
        read_export(folder)


@pytest.mark.parametrize("name", [name for name in ALL if name != MANIFEST_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(NotFoundError, match=re.escape(name)):
        read_export(folder)


def test_weights_that_fit_the_list_but_not_the_manifest_are_refused(made: Made, folder: Path) -> None:
    other = made.export(folder.parent / "other").folder
    shutil.copy(folder / CORRECTION_FILE, other / MODEL_FILE)
    relist(other)
    with pytest.raises(VerificationError, match=r"model\.safetensors, blob"):
        read_export(other)


def test_a_file_with_other_tensors_or_metadata_is_refused_though_it_is_listed(folder: Path) -> None:
    from safetensors.torch import save_file

    with safe_open(folder / MODEL_FILE, framework="pt") as file:
        about = file.metadata()
    weights = load_file(folder / MODEL_FILE)
    for changed, said, expected in (
        ({**weights, "more": torch.zeros(2)}, about, "tensor more"),
        (
            {name: value for name, value in weights.items() if name != "head.bias"},
            about,
            r"tensor head\.bias",
        ),
        ({**weights, "head.bias": weights["head.bias"].double()}, about, "float64"),
        (weights, {**about, "expert": "eve.e1"}, "metadata expert"),
        (weights, {**about, "license": "mit"}, "metadata license"),
    ):
        save_file(changed, folder / MODEL_FILE, metadata=said)
        relist(folder)
        with pytest.raises(VerificationError, match=expected):
            read_export(folder)


def relist(folder: Path) -> None:
    """List a folder's files as they are, as whoever changes them would."""
    proof = Proof.from_json((folder / MANIFEST_FILE).read_bytes(), "manifest")
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in proof.files}
    (folder / MANIFEST_FILE).write_bytes(replace(proof, files=files).to_json())


def test_a_manifest_under_another_ca_or_owner_is_refused(made: Made, folder: Path, tmp_path: Path) -> None:
    stranger = made_expert(tmp_path / "swarm")
    proof = Proof.from_json((folder / MANIFEST_FILE).read_bytes(), "manifest")
    for changed in (
        replace(proof, ca_pem=stranger.founded.ca.certificate_pem),
        replace(proof, owner_record=stranger.owner.record),
        replace(proof, owner_record=made.founded.coordinator.record),
        replace(proof, manifest=stranger.statement.envelope),
        replace(proof, files={}),
        replace(proof, files={**proof.files, "../elsewhere": "0" * 64}),
    ):
        (folder / MANIFEST_FILE).write_bytes(changed.to_json())
        with pytest.raises(VerificationError, match=re.escape(MANIFEST_FILE)):
            read_export(folder)


def test_bfloat16_weights_stay_bfloat16(tmp_path: Path) -> None:
    made = made_expert(tmp_path / "swarm", dtype=torch.bfloat16)
    folder = made.export(tmp_path / "out").folder
    assert {tensor.dtype for tensor in load_file(folder / MODEL_FILE).values()} == {torch.bfloat16}
    assert ran(programs(folder)[1], folder).returncode == 0


def test_weights_without_a_manifest_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whose maker nobody can check"):
        read_export(folder / MODEL_FILE)
    (folder / MANIFEST_FILE).unlink()
    with pytest.raises(UsageError, match=r"weights without manifest\.json"):
        read_export(folder)
    with pytest.raises(NotFoundError, match="no such folder"):
        read_export(tmp_path / "nothing")


def test_a_folder_with_something_in_it_is_replaced_only_if_it_is_an_export(
    made: Made, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    made.export(target)
    with pytest.raises(ConflictError, match="--force"):
        made.export(target)
    (target / "note.txt").write_text("somebody's own")
    with pytest.raises(ConflictError, match=r"note\.txt"):
        made.export(target, force=True)
    assert (target / "note.txt").read_text() == "somebody's own"
    (target / "note.txt").unlink()
    (target / MODEL_FILE).write_bytes(b"damaged")
    assert made.export(target, force=True).folder == target
    assert {path.name for path in target.iterdir()} == set(ALL)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ConflictError, match="no export"):
        made.export(mine, force=True)
    (mine / MANIFEST_FILE).write_text('{"name": "an extension of a browser"}')
    with pytest.raises(ConflictError, match="no export"):
        made.export(mine, force=True)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        made.export(tmp_path / "file")
    with pytest.raises(NotFoundError, match="mkdir -p"):
        made.export(tmp_path / "none" / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "mine", "file"}


def test_an_export_that_fails_leaves_nothing_and_what_was_there(made: Made, tmp_path: Path) -> None:
    target = made.export(tmp_path / "out").folder
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def fail(folder: Path) -> None:
        assert (folder / MODEL_FILE).exists()
        raise VerificationError("signature", found="none")

    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    for sign in (fail, fill):
        with pytest.raises(SwarmError):
            made.export(target, force=True, sign=sign)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_somebody_put_there_while_an_export_was_made_stays(made: Made, tmp_path: Path) -> None:
    target = made.export(tmp_path / "out").folder

    def meanwhile(folder: Path) -> None:
        (target / "thesis.tex").write_text("years of work")

    with pytest.raises(ConflictError, match=r"thesis\.tex"):
        made.export(target, force=True, sign=meanwhile)
    assert {path.name for path in target.iterdir()} == {*ALL, "thesis.tex"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_that_cannot_get_its_name_gives_the_earlier_one_back(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = made.export(tmp_path / "out").folder
    (target / MODEL_FILE).write_bytes(b"the earlier one")
    renames = Path.rename

    def rename(source: Path, name: Path) -> Path:
        if name == target and source.name == "out":
            raise OSError(5, "Input/output error")
        return renames(source, name)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(SwarmError, match="Input/output"):
        made.export(target, force=True)
    assert (target / MODEL_FILE).read_bytes() == b"the earlier one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", [CARD_FILE, MODEL_FILE])
def test_a_pipe_or_a_device_in_an_exports_place_is_refused_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(VerificationError, match="no regular file"):
        read_export(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(VerificationError, match="no regular file"):
        read_export(folder)
    os.mkfifo(folder / SIGNATURE_FILE)
    with pytest.raises(VerificationError, match="no regular file"):
        verify_folder(folder, b"", SwarmId("plants"))


def test_damaged_weights_are_not_exported(made: Made, tmp_path: Path) -> None:
    blobs = BlobFiles(tmp_path / "cache")
    for data in made.blobs.values():
        blobs.put(data)
    first = blobs.path(next(iter(made.blobs)))
    first.write_bytes(bytes(len(first.read_bytes())))
    from swarm.exchange.folder import write_export

    with pytest.raises(VerificationError):
        write_export(tmp_path / "out", made.proof, blobs.open_verified, made.facts())
    assert not (tmp_path / "out").exists()


def test_the_card_has_its_front_matter_and_every_section(made: Made) -> None:
    yaml = pytest.importorskip("yaml")
    card = model_card(
        made.statement.value,
        made.specification,
        made.facts(license="apache-2.0", class_counts={"beech": 40, "élm": 24, "oak": 7}, is_signed=True),
    )
    _, front, body = card.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "apache-2.0" and told["pipeline_tag"] == "image-classification"
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == made.statement.value.metrics["validation_accuracy"]
    titles = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert titles == [
        *("Classes", "Input", "Training data", "Metrics and validation", "Lineage", "Cost", "Correction"),
        *("Use", "Verify"),
    ]
    assert "| 1 | élm | 24 |" in body and "71 training samples" in body
    assert "`uint8` [batch, 8, 8]" in body and "raw * 0.0625 + -0.25" in body
    assert made.founded.ca.pin in body and "model_signing verify" in body


def test_without_licence_and_counts_the_card_says_so(made: Made) -> None:
    card = model_card(made.statement.value, made.specification, made.facts())
    assert 'license: "unknown"' in card and "Licence: none stated" in card
    assert "| known to its owner |" in card and "model_signing" not in card


def test_names_of_layers_that_an_owner_chose_come_into_no_program(tmp_path: Path) -> None:
    made = made_expert(tmp_path)
    value = made.statement.value
    evil = replace(value.modules[0], name="x = __import__('os').system('id')")
    card = model_card(replace(value, modules=(evil, *value.modules[1:])), made.specification, made.facts())
    assert "system" not in card and "class Net" not in card


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_nothing_in_a_name_acts_as_markdown(name: str) -> None:
    shown = escaped(name)
    assert not re.search(r"[\\`*_{}\[\]<>|~$\n]", shown)
    assert html.unescape(shown) == "".join(each if each.isprintable() else " " for each in name)


def test_the_cards_command_verifies_the_model_signature(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    pytest.importorskip("OpenSSL")
    from swarm.exchange.folder import write_export
    from swarm.exchange.model_signature import sign_folder

    folder = write_export(
        tmp_path / "out",
        made.proof,
        made.read,
        made.facts(is_signed=True),
        sign=lambda written: sign_folder(written, made.owner),
    ).folder
    ca = made.founded.ca
    assert verify_folder(folder, ca.certificate_pem, ca.swarm) == made.owner.caller
    (line,) = re.findall(r"^model_signing (.*)$", (folder / CARD_FILE).read_text(), re.MULTILINE)
    words = [sys.executable, "-m", "model_signing", *line.split()]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    stranger = made_expert(tmp_path / "swarm").founded.ca
    with pytest.raises(VerificationError, match=r"model\.sig"):
        verify_folder(folder, stranger.certificate_pem, stranger.swarm)
    (folder / CARD_FILE).write_text("another card")
    with pytest.raises(VerificationError, match=r"model\.sig"):
        verify_folder(folder, ca.certificate_pem, ca.swarm)


@pytest.mark.parametrize("name", ["model.safetensors", "README.md"])
def test_a_file_far_larger_than_what_was_exported_is_refused_unread(folder: Path, name: str) -> None:
    os.truncate(folder / name, 1 << 40)
    with pytest.raises(VerificationError, match=rf"{name}.*1099511627776 bytes"):
        read_export(folder)


_EXPORTS = """
import sys
from pathlib import Path
from swarm.exchange.unfinished import folder_beside
with folder_beside(Path(sys.argv[1])) as beside:
    (beside / "weights").write_bytes(b"w")
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_what_killed_exports_left_goes_with_the_next_one_and_what_is_being_made_stays(
    made: Made, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    living = [
        subprocess.Popen(
            [sys.executable, "-c", _EXPORTS, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in living:
        assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    (tmp_path / ".out.0123abcd.replaced").mkdir()
    somebodys = tmp_path / ".out.mine"
    somebodys.mkdir()
    living[0].kill()
    living[0].wait()
    made.export(target)
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith(".out")}
    assert len(left) == 2 and somebodys.name in left
    living[1].communicate()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == [somebodys.name]
