"""`swarm export`: an expert as a folder that others can use without Swarm."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Delta, Home, Json
from swarm.cli.output import bytes_text, emit, printable, progress, run_async, table
from swarm.cli.references import VersionName, reference

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.lineage import Lineage
    from swarm.domain.manifests import Manifest
    from swarm.exchange.card import CardFacts
    from swarm.exchange.folder import Export
    from swarm.exchange.proof import Proof
    from swarm.trust.statements import Statement

_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,79}")


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    expert_id: VersionName,
    to: Annotated[Path, typer.Option("--to", help="The folder to write.", metavar="DIR")],
    license: Annotated[
        str,
        typer.Option(help="The licence of your own expert, by its SPDX name: apache-2.0.", metavar="NAME"),
    ] = "",
    sign: Annotated[
        bool, typer.Option("--sign", help="Add an OpenSSF model signature by this node (extra oms).")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    delta: Delta = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Write an expert's weights, signed manifest and model card into a folder that others can use.

    Weights are in model.safetensors, those of a correction in correction.safetensors. Raw data never leave.
    """
    from swarm.cli.places import find_place
    from swarm.cli.progress_bar import transfer_bar
    from swarm.cli.verified import standing_version, takes_deltas, verified_registry
    from swarm.exchange.folder import check_target, write_export
    from swarm.exchange.model_signature import check_can_sign, sign_folder

    place = find_place(home)
    identity = place.identity()
    folder = to.expanduser().absolute()
    check_target(folder, force=force)
    if sign:
        check_can_sign(identity)
    wanted, deltas = reference(expert_id), takes_deltas(place, delta)

    async def work() -> None:
        async with verified_registry(place, with_peers=True, deltas=deltas) as registry:
            statement = await standing_version(place, registry, wanted)
            manifest = statement.value
            check_may_leave(manifest, identity.id)
            _check_license(license, manifest, identity.id)
            found = await registry.client.lineage(manifest=statement.digest)
            standing = _standing(found, statement)
            with transfer_bar(expert_id, as_json=json) as bar:
                await registry.blobs(manifest, bar)
            for holder, reason in registry.dropped.items():
                progress(f"{holder} was asked no more: {reason}")
            proof = await _proof(place, statement, license)
            _listed(place, manifest, statement, folder)
            made = write_export(
                folder,
                proof,
                registry.cache.open_verified,
                _facts(place, statement, found, standing, license, is_signed=sign),
                sign=(lambda made: sign_folder(made, identity)) if sign else None,
                force=force,
            )
        _tell(made, is_own=manifest.owner == identity.id, as_json=json)

    run_async(work())


def check_may_leave(manifest: "Manifest", member: str) -> None:
    """Raise NotAuthorisedError for another's expert that its owner keeps."""
    from swarm.domain.errors import NotAuthorisedError

    if manifest.share == "serve-only" and manifest.owner != member:
        raise NotAuthorisedError(
            f"{manifest.expert}@{manifest.version}",
            found="share serve-only",
            expected="share borrow or public, or an expert of your own",
            remedy=f"ask {manifest.owner} to export it; or ask the expert: swarm predict INPUT --owner"
            f" {manifest.owner}",
        )


def _check_license(license: str, manifest: "Manifest", member: str) -> None:
    from swarm.domain.errors import UsageError

    if not license:
        return
    if manifest.owner != member:
        raise UsageError(
            "--license",
            found=f"an expert of {manifest.owner}",
            expected="one of your own: only an owner can grant a licence",
            remedy="leave --license out",
        )
    if not _LICENSE.fullmatch(license):
        raise UsageError("--license", found=repr(license[:80]), expected="an SPDX name", remedy="apache-2.0")


def _standing(found: "Lineage", statement: "Statement[Manifest]") -> str:
    """Return how the version stands; NotAuthorisedError where it was withdrawn."""
    from swarm.domain.errors import NotAuthorisedError

    manifest = statement.value
    standing = next(node.standing for node in found.nodes if node.manifest == statement.digest)
    if standing == "withdrawn":
        raise NotAuthorisedError(
            f"{manifest.expert}@{manifest.version}",
            found="an expert that was withdrawn, or whose owner was revoked",
            expected="one that its owner still gives",
            remedy="list what there is: swarm experts",
        )
    return standing


async def _proof(place: "Place", statement: "Statement[Manifest]", license: str) -> "Proof":
    from swarm.cli.places import coordinator
    from swarm.exchange.proof import Proof
    from swarm.trust.keyring import COORDINATOR

    identity, owner = place.identity(), statement.value.owner
    async with coordinator(place) as client:
        specification = await client.specification()
        if owner in (COORDINATOR, identity.id):
            record = identity.coordinator_record if owner == COORDINATOR else identity.record
        else:
            record = await client.record(owner)
    return Proof(
        manifest=statement.envelope,
        specification=specification,
        owner_record=record,
        coordinator_record=identity.coordinator_record,
        ca_pem=identity.ca_pem,
        files={},
        license=license,
    )


def _facts(
    place: "Place",
    statement: "Statement[Manifest]",
    found: "Lineage",
    standing: str,
    license: str,
    *,
    is_signed: bool,
) -> "CardFacts":
    from swarm.exchange.card import CardFacts
    from swarm.trust.certificates import certificate_pin

    return CardFacts(
        digest=statement.digest,
        pin=certificate_pin(place.identity().ca_pem),
        license=license,
        class_counts=_class_counts(place, statement),
        names={node.manifest: f"{node.expert}@{node.version} of {node.owner}" for node in found.nodes},
        standing=standing,
        is_signed=is_signed,
    )


def _class_counts(place: "Place", statement: "Statement[Manifest]") -> Mapping[str, int]:
    """Return what this node's own head was trained on; of others and of older versions nothing is known."""
    from node.leaves import LeafBook
    from swarm.config import NodeHome

    if not place.is_node or statement.value.owner != place.identity().id:
        return {}
    leaf = LeafBook(NodeHome(place.root).state).leaf(statement.value.leaf)
    if leaf is None or statement.digest not in (leaf.manifest, leaf.head):
        return {}
    return leaf.class_counts if leaf.manifest == leaf.head else {}


def _listed(place: "Place", manifest: "Manifest", statement: "Statement[Manifest]", folder: Path) -> None:
    """Note in a node's outbound log what it is about to hand out."""
    from node.outbound import OutboundLog
    from swarm.config import NodeHome
    from swarm.domain.inference import Listing

    if not place.is_node:
        return
    corrections = manifest.correction.modules if manifest.correction is not None else ()
    line = Listing(
        what="export",
        detail=f"weights, manifest and card of {manifest.expert}@{manifest.version}",
        size_bytes=sum(module.size_bytes for module in (*manifest.modules, *corrections)),
        recipient=f"folder {folder}",
        at=time.time(),
        digest=statement.digest,
    )
    OutboundLog(NodeHome(place.root).outbound).record([line])


def _tell(made: "Export", *, is_own: bool, as_json: bool) -> None:
    manifest = made.manifest
    files = {path.name: path.stat().st_size for path in sorted(made.folder.iterdir())}
    rows = [(name, bytes_text(size)) for name, size in files.items()]
    lines = [printable(f"{manifest.expert}@{manifest.version} of {manifest.owner} is in {made.folder}")]
    if manifest.share == "borrow" and not is_own:
        lines.append(f"{manifest.owner} shares it within swarm {manifest.swarm}: ask before you pass it on")
    emit(
        "export",
        {
            "expert": manifest.expert,
            "version": manifest.version,
            "owner": manifest.owner,
            "digest": made.proven.manifest.digest,
            "pin": made.proven.pin,
            "folder": str(made.folder),
            "files": files,
            "signed": made.is_signed,
        },
        as_json=as_json,
        text="\n".join([*lines, table(("file", "size"), rows)]),
    )
