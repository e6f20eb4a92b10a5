"""`swarm import`: an export back into its swarm, or into another one by its node's own decision."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, printable, run_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.cli.places import Place
    from swarm.domain.ids import Digest
    from swarm.exchange.folder import Export
    from swarm.rpc.clients import RegistryClient
    from swarm.trust.identity import Identity


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an import: `state` is checked, kept, known or start; `notes` are for people."""

    state: str
    notes: "Sequence[str]"
    sent_blobs: int = 0


def register(app: typer.Typer) -> None:
    app.command("import")(import_export)


def import_export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that swarm export wrote.")],
    check: Annotated[bool, typer.Option("--check", help="Verify it, say who made it, keep nothing.")] = False,
    trust_foreign: Annotated[
        bool,
        typer.Option(
            "--trust-foreign",
            help="Keep an expert of another swarm as a start for this node's own: swarm train DATA --start.",
        ),
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Read an exported expert back: its signatures and every byte are verified first.

    Of this swarm: a node keeps it and stands in for its owner, and the registry gets bytes that it lost.
    Of another swarm: refused, unless this node's owner trusts it as a start for training.
    """
    from swarm.domain.errors import UsageError
    from swarm.exchange.folder import read_export

    if check and trust_foreign:
        raise UsageError("command line", found="--check with --trust-foreign", expected="one of them")
    found = read_export(folder.expanduser().absolute())
    place = _place(home, needed=not check)
    identity = place.identity() if place is not None else None
    is_own = identity is not None and _is_own_swarm(found, identity)
    signed_by = _signature_note(found)

    async def work() -> None:
        if check or place is None or identity is None:
            outcome = Outcome(state="checked", notes=_whose(is_own, identity))
        elif is_own:
            outcome = await _take_back(found, place, identity, as_json=json)
        else:
            outcome = _as_start(found, place, identity, trusted=trust_foreign)
        _tell(found, outcome, (*outcome.notes, *signed_by), as_json=json)

    run_async(work())


def _place(home: Path | None, *, needed: bool) -> "Place | None":
    from swarm.cli.places import find_place
    from swarm.domain.errors import NotFoundError

    try:
        return find_place(home)
    except NotFoundError:
        if needed:
            raise
        return None


def _is_own_swarm(found: "Export", identity: "Identity") -> bool:
    from swarm.trust.certificates import certificate_pin

    return found.proven.pin == certificate_pin(identity.ca_pem)


def _whose(is_own: bool, identity: "Identity | None") -> "Sequence[str]":
    if is_own:
        return ("of this swarm",)
    if identity is None:
        return ("nobody here knows that CA: compare the pin with what its swarm's members say",)
    return (f"of another swarm than {identity.swarm} here: compare the pin with what its members say",)


def _signature_note(found: "Export") -> "Sequence[str]":
    """Return what its OpenSSF signature says; VerificationError where that does not verify."""
    from swarm.exchange.model_signature import is_installed, verify_folder

    if not found.is_signed:
        return ()
    if not is_installed():
        return ("model.sig was not looked at: pip install 'swarm[oms]'",)
    signer = verify_folder(found.folder, found.proof.ca_pem, found.manifest.swarm)
    return (f"model.sig is by {signer.role} {signer.id}",)


async def _take_back(found: "Export", place: "Place", identity: "Identity", *, as_json: bool) -> Outcome:
    """Take an expert of this swarm into the node's cache, and send the registry what it lacks of it."""
    from swarm.cli.exporting import check_may_leave
    from swarm.cli.places import coordinator, registry
    from swarm.domain.errors import NotFoundError
    from swarm.domain.manifests import Manifest

    statement, manifest = found.proven.manifest, found.manifest
    check_may_leave(manifest, identity.id)
    keyring = identity.keyring()
    keyring.add_record(found.proof.owner_record)
    async with coordinator(place) as client:
        if revocations := await client.revocations():
            keyring.set_revocations(revocations)
    keyring.open(statement.envelope, Manifest)
    notes = []
    sent = 0
    async with registry(place) as client:
        try:
            lineage = await client.lineage(manifest=statement.digest)
        except NotFoundError:
            notes.append(
                f"the registry does not know this version: its owner, {manifest.owner}, announces it"
            )
        else:
            _check_not_withdrawn(found, {node.manifest: node.standing for node in lineage.nodes})
            if identity.role in ("node", "operator"):
                sent = await _send_missing(found, place, client, as_json=as_json)
    if sent:
        notes.append(f"{sent} blobs that the registry lacked were sent")
    if identity.role != "node":
        return Outcome(state="known", notes=(*notes, "nothing is kept in this home"), sent_blobs=sent)
    _keep(found, place, is_others=manifest.owner != identity.id)
    notes.append("its modules are in this node's cache")
    return Outcome(state="kept", notes=notes, sent_blobs=sent)


def _check_not_withdrawn(found: "Export", standings: "dict[Digest, str]") -> None:
    from swarm.domain.errors import NotAuthorisedError

    if standings.get(found.proven.manifest.digest) == "withdrawn":
        raise NotAuthorisedError(
            found.proven.name,
            found="an expert that was withdrawn, or whose owner was revoked",
            expected="one that its owner still gives",
            remedy="list what there is: swarm experts",
        )


async def _send_missing(found: "Export", place: "Place", client: "RegistryClient", *, as_json: bool) -> int:
    """Send the registry the blobs that it lacks of a version that it knows; return how many."""
    from node.outbound import OutboundLog
    from swarm.cli.progress_bar import transfer_bar
    from swarm.config import NodeHome
    from swarm.domain.inference import Listing

    # Unclaimed: no commit of ours would end the claim, and what is withdrawn meanwhile would stay a day.
    missing = await client.missing(found.manifest.blobs(), claim=False)
    with transfer_bar(found.proven.name, as_json=as_json) as bar:
        on_bytes = bar(sum(len(found.blobs[digest]) for digest in missing))
        for digest in missing:
            data = found.blobs[digest]
            if place.is_node:
                line = Listing(
                    what="blob",
                    detail=f"weights of {found.proven.name}, imported",
                    size_bytes=len(data),
                    recipient="registry",
                    at=time.time(),
                    digest=digest,
                )
                OutboundLog(NodeHome(place.root).outbound).record([line])
            await client.publish_blob(digest, data, on_bytes)
    return len(missing)


def _keep(found: "Export", place: "Place", *, is_others: bool) -> None:
    """Put the blobs into the node's cache and then, of others' experts, the manifest that names them."""
    from node.durable import write_durably
    from swarm.config import NodeHome
    from swarm.modules.blobs import BlobFiles

    home = NodeHome(place.root)
    cache = BlobFiles(home.cache)
    for data in found.blobs.values():
        cache.put(data)
    if is_others:
        statement = found.proven.manifest
        write_durably(home.cache / "manifests" / f"{statement.digest}.json", statement.envelope)


def _as_start(found: "Export", place: "Place", identity: "Identity", *, trusted: bool) -> Outcome:
    """Keep another swarm's expert as a start; VerificationError unless the node's owner trusts it."""
    from node.starts import Starts
    from swarm.config import NodeHome
    from swarm.domain.errors import UsageError, VerificationError

    manifest, proven = found.manifest, found.proven
    whose = f"{manifest.owner} of swarm {manifest.swarm}, CA {proven.pin[:12]}"
    if not trusted:
        raise VerificationError(
            f"{found.folder}",
            found=f"{proven.name} by {whose}",
            expected=f"an expert of swarm {identity.swarm}",
            remedy="compare the CA's pin with what that swarm's members say; to start from these weights:"
            " --trust-foreign",
        )
    if identity.role != "node":
        raise UsageError(
            "--trust-foreign",
            found=f"a home of {identity.role} {identity.id}",
            expected="a node's, whose own experts may start from it",
            remedy="name a node's folder: --home DIR",
        )
    notes = _check_fits(found, place, identity)
    Starts(NodeHome(place.root)).keep(found)
    command = f"swarm train DATA --start {proven.manifest.digest[:12]}"
    return Outcome(
        state="start",
        notes=(f"trusted as a start, by this node's own decision: {whose}", *notes, f"next: {command}"),
    )


def _check_fits(found: "Export", place: "Place", identity: "Identity") -> "Sequence[str]":
    """Return what differs between the swarms' inputs; ShapeMismatchError where they have other shapes.

    Before the node has met its swarm nothing is known of it, and training finds out.
    """
    from swarm.config import NodeHome
    from swarm.domain.errors import ShapeMismatchError
    from swarm.domain.specification import Specification

    kept = NodeHome(place.root).state / "specification.json"
    if not kept.exists():
        return ()
    here = identity.keyring().open(kept.read_bytes(), Specification).value
    there = found.proven.specification
    if found.manifest.net.input_shape != here.input_shape:
        raise ShapeMismatchError(
            f"{found.proven.name}, input shape",
            found=str(list(found.manifest.net.input_shape)),
            expected=f"{list(here.input_shape)}, as swarm {here.swarm} specifies",
        )
    if (there.scale, there.offset) == (here.scale, here.offset):
        return ()
    return (
        f"its inputs were raw * {there.scale:g} + {there.offset:g}, here they are raw * {here.scale:g}"
        f" + {here.offset:g}: it may be a worse start than it looks",
    )


def _tell(found: "Export", outcome: Outcome, notes: "Sequence[str]", *, as_json: bool) -> None:
    manifest, proven = found.manifest, found.proven
    lines = (
        f"{proven.name}, verified: signed by {manifest.owner} of swarm {manifest.swarm}",
        f"manifest {proven.manifest.digest}",
        f"CA pin {proven.pin}",
        *notes,
    )
    emit(
        "import",
        {
            "state": outcome.state,
            "expert": manifest.expert,
            "version": manifest.version,
            "owner": manifest.owner,
            "swarm": manifest.swarm,
            "digest": proven.manifest.digest,
            "pin": proven.pin,
            "sent_blobs": outcome.sent_blobs,
            "notes": list(notes),
        },
        as_json=as_json,
        text="\n".join(map(printable, lines)),
    )
