"""An export as a folder: written whole or not at all, and used only once all of it is verified.

`model.safetensors`, `correction.safetensors` where the expert has a correction, `manifest.json`
(`swarm.exchange.proof`), `README.md`; with an OpenSSF signature `model.sig` and `ca.pem`, too.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from swarm.domain.errors import (
    ConflictError,
    ExhaustedError,
    NotFoundError,
    UsageError,
    VerificationError,
)
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.domain.tensors import ModuleEntry
from swarm.exchange.card import CardFacts, model_card
from swarm.exchange.model_signature import SIGNATURE_FILE
from swarm.exchange.proof import Proof, Proven, open_proof
from swarm.exchange.unfinished import REPLACED, folder_beside, sweep
from swarm.exchange.weights_file import blobs_of, read_weights, write_weights
from swarm.modules.packing import ReadBlob
from swarm.trust.codec import MAX_JSON_BYTES
from swarm.trust.key_files import sync_folder

MODEL_FILE: Final = "model.safetensors"
CORRECTION_FILE: Final = "correction.safetensors"
MANIFEST_FILE: Final = "manifest.json"
CARD_FILE: Final = "README.md"
CA_FILE: Final = "ca.pem"
_MOST_HEADER_BYTES: Final = 101_000_000
"""The safetensors format's own limit, and a little."""

_OWN_FILES: Final = {MODEL_FILE, CORRECTION_FILE, MANIFEST_FILE, CARD_FILE, CA_FILE, SIGNATURE_FILE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A folder's content, verified from its CA's certificate on. `blobs` maps the bytes of every blob."""

    folder: Path
    proof: Proof
    proven: Proven
    blobs: Mapping[Digest, memoryview]

    @property
    def manifest(self) -> Manifest:
        return self.proven.manifest.value

    @property
    def is_signed(self) -> bool:
        """Whether an OpenSSF signature lies beside, which nothing here has looked at."""
        return (self.folder / SIGNATURE_FILE).exists()


def check_target(folder: Path, *, force: bool) -> None:
    """Raise unless an export may be written there: where is nothing yet, or with force an earlier export."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--to {folder}", found="no folder", expected="a folder, or nothing yet")
    if not folder.parent.is_dir():
        raise NotFoundError(
            f"--to {folder}",
            found=f"no folder {folder.parent}",
            expected="a folder in one that exists",
            remedy=f"mkdir -p {shlex.quote(str(folder.parent))}",
        )
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise ConflictError(
            f"--to {folder}",
            found="a folder with something in it",
            expected="an empty one, or none yet",
            remedy="choose another, or replace an earlier export: --force",
        )
    if (odd := _not_of_an_export(folder)) is not None:
        raise ConflictError(
            f"--to {folder}",
            found=f"a folder that is no export: {odd}",
            expected="an earlier export and nothing else, which --force replaces",
            remedy="choose another folder, or move away what is yours",
        )


def write_export(
    folder: Path,
    proof: Proof,
    read: ReadBlob,
    facts: CardFacts,
    *,
    sign: Callable[[Path], None] | None = None,
    force: bool = False,
) -> Export:
    """Write a folder with everything in it, or nothing. `proof.files` are found here; `sign` signs it.

    What was written is read back and verified before it gets its name. Raises as `check_target` does,
    ExhaustedError on a full disk, and VerificationError for what could not be read back.
    """
    check_target(folder, force=force)
    proven = open_proof(proof, MANIFEST_FILE)
    try:
        with folder_beside(folder) as beside:
            made = beside / folder.name  # the signature names the folder
            made.mkdir()
            _fill(made, proof, proven, read, facts, is_signed=sign is not None)
            if sign is not None:
                sign(made)
            _sync(made)
            read_export(made)
            check_target(folder, force=force)  # again: making it took a while
            _put_in_place(made, folder, beside)
        sweep(folder)
    except OSError as error:
        raise ExhaustedError(
            f"--to {folder}", found=error.strerror or str(error), remedy="nothing was written there"
        ) from error
    return read_export(folder)


def read_export(folder: Path) -> Export:
    """Return what a folder holds, all of it verified against its own CA's certificate.

    Raises NotFoundError or UsageError where it is no export, and VerificationError, naming the file, where
    anything in it is not what was signed or exported. Who the CA is, is for the caller to judge.
    """
    _check_is_export(folder)
    path = folder / MANIFEST_FILE
    proof = _read_proof(path)
    proven = open_proof(proof, str(path))
    manifest = proven.manifest.value
    _check_files(folder, proof, manifest)
    blobs: dict[Digest, memoryview] = {}
    for name, modules in _weights(manifest).items():
        file = read_weights(folder / name)
        wanted = metadata_of(proven, proof.license)
        if file.metadata != wanted:
            odd = min(
                key for key in file.metadata.keys() | wanted if file.metadata.get(key) != wanted.get(key)
            )
            raise VerificationError(
                f"{folder / name}, metadata {odd[:80]}",
                found=repr(file.metadata.get(odd))[:120],
                expected=repr(wanted.get(odd))[:120],
                remedy="the file was changed and is not used",
            )
        blobs |= blobs_of(modules, file)
    return Export(folder=folder, proof=proof, proven=proven, blobs=blobs)


def metadata_of(proven: Proven, license: str) -> dict[str, str]:
    """Return what the safetensors files say in their headers; class names and net as JSON."""
    manifest, net = proven.manifest.value, proven.manifest.value.net
    return {
        "format": "pt",
        "swarm": manifest.swarm,
        "expert": manifest.expert,
        "version": str(manifest.version),
        "manifest": proven.manifest.digest,
        "class_names": json.dumps(manifest.class_names, ensure_ascii=False),
        "net": json.dumps(
            {
                "factory": net.factory,
                "input_shape": net.input_shape,
                "classes": net.classes,
                "code_digest": net.code_digest,
            }
        ),
        "input_scale": repr(proven.specification.scale),
        "input_offset": repr(proven.specification.offset),
        **({"license": license} if license else {}),
    }


def _fill(
    made: Path, proof: Proof, proven: Proven, read: ReadBlob, facts: CardFacts, *, is_signed: bool
) -> None:
    manifest = proven.manifest.value
    for name, modules in _weights(manifest).items():
        write_weights(made / name, modules, read, metadata_of(proven, proof.license))
    (made / CARD_FILE).write_text(model_card(manifest, proven.specification, facts), encoding="utf-8")
    if is_signed:
        (made / CA_FILE).write_bytes(proof.ca_pem)
    told = replace(proof, files={path.name: _sha256(path) for path in sorted(made.iterdir())})
    (made / MANIFEST_FILE).write_bytes(told.to_json())


def _weights(manifest: Manifest) -> dict[str, tuple[ModuleEntry, ...]]:
    """Return the modules that each file of weights holds."""
    found = {MODEL_FILE: manifest.modules}
    if manifest.correction is not None:
        found[CORRECTION_FILE] = manifest.correction.modules
    return found


def _not_of_an_export(folder: Path) -> str | None:
    """Say what in folder `write_export` did not write, None where it wrote all of it."""
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return f"no {MANIFEST_FILE}"
    try:
        _read_proof(manifest)
    except VerificationError as error:
        return f"another {MANIFEST_FILE} ({error.found})"
    for path in sorted(folder.iterdir()):
        if path.name not in _OWN_FILES:
            return f"{path.name[:80]!r} is in it, too"
        if path.is_symlink() or not path.is_file():
            return f"{path.name} is no file"
    return None


def _read_proof(path: Path) -> Proof:
    if path.stat().st_size > 2 * MAX_JSON_BYTES:
        raise VerificationError(str(path), found=f"{path.stat().st_size} bytes", expected="a manifest's size")
    return Proof.from_json(path.read_bytes(), str(path))


def _check_is_export(folder: Path) -> None:
    if (folder / MANIFEST_FILE).is_file():
        return
    if folder.is_dir():
        bare = any(folder.glob("*.safetensors"))
        raise UsageError(
            str(folder),
            found=f"weights without {MANIFEST_FILE}" if bare else f"no {MANIFEST_FILE}",
            expected="a folder that swarm export wrote",
            remedy="weights whose maker nobody can check are not taken in; ask who made them for an export",
        )
    if folder.exists():
        raise UsageError(
            str(folder),
            found="a file",
            expected="a folder that swarm export wrote",
            remedy="weights whose maker nobody can check are not taken in; name the folder, with its"
            f" {MANIFEST_FILE}",
        )
    raise NotFoundError(str(folder), found="no such folder", expected="one that swarm export wrote")


def _check_files(folder: Path, proof: Proof, manifest: Manifest) -> None:
    """Raise unless the files that the proof lists are those of this manifest, and as they were exported."""
    wanted = {*_weights(manifest), CARD_FILE}
    if proof.files.keys() - {CA_FILE} != wanted:
        raise VerificationError(
            str(folder / MANIFEST_FILE),
            found=f"files {', '.join(sorted(proof.files))[:200]}",
            expected=", ".join(sorted(wanted)),
        )
    largest = {
        name: _MOST_HEADER_BYTES + _size_bytes(modules) for name, modules in _weights(manifest).items()
    }
    for name, expected in proof.files.items():
        try:
            _check_size(folder / name, largest.get(name, MAX_JSON_BYTES))
            found = _sha256(folder / name)
        except (FileNotFoundError, IsADirectoryError):
            raise NotFoundError(
                str(folder / name), found="no such file", expected=f"as {MANIFEST_FILE} lists it"
            ) from None
        if found != expected:
            raise VerificationError(
                str(folder / name),
                found=f"bytes with SHA-256 {found[:12]}",
                expected=f"{expected[:12]}, as {MANIFEST_FILE} lists it",
                remedy="the file was changed since it was exported and is not used",
            )
    if CA_FILE in proof.files and (folder / CA_FILE).read_bytes() != proof.ca_pem:
        raise VerificationError(
            str(folder / CA_FILE), found="another certificate", expected=f"the one in {MANIFEST_FILE}"
        )


def _size_bytes(modules: Sequence[ModuleEntry]) -> int:
    return sum(entry.size_bytes for module in modules for entry in module.tensors)


def _check_size(path: Path, most: int) -> None:
    """Raise VerificationError for a file that is too large to be what was exported, before it is read."""
    if path.stat().st_size > most:
        raise VerificationError(
            str(path),
            found=f"{path.stat().st_size} bytes",
            expected=f"at most {most}",
            remedy="the file was changed since it was exported and is not used",
        )


def _put_in_place(made: Path, folder: Path, beside: Path) -> None:
    """Give a finished folder its name. What it replaces is there under another one until that is done."""
    if folder.is_dir() and any(folder.iterdir()):
        replaced = beside.with_name(f"{beside.name}{REPLACED}")
        folder.rename(replaced)
        try:
            made.rename(folder)
        except OSError:
            replaced.rename(folder)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        made.rename(folder)
    sync_folder(folder.parent)


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)


def _sha256(path: Path) -> str:
    """Return what a file hashes to; VerificationError for a pipe or a device, which might never end."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise VerificationError(str(path), found="no regular file", expected=f"as {MANIFEST_FILE} lists it")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
