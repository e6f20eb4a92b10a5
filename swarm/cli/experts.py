"""`swarm experts`, `swarm expert ...`, `swarm lineage`: what the registry holds and where it came from."""

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli import adding, growth, pulling, withdrawing
from swarm.cli.options import Home, Json
from swarm.cli.output import bytes_text, emit, printable, run_async, table
from swarm.cli.references import VersionName, reference

if TYPE_CHECKING:
    from swarm.cli.places import Place
    from swarm.domain.collection import OwnerBytes
    from swarm.domain.lineage import Lineage, LineageNode
    from swarm.domain.manifests import Manifest

expert = typer.Typer(
    help="One expert: show, pull; change the gate: add, split, merge, remove, retrain.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.command("experts")(experts)
    app.command("lineage")(lineage)
    expert.command("show")(show)
    expert.command("pull")(pulling.pull)
    growth.register(expert)
    expert.command("add")(adding.add)
    expert.command("remove")(withdrawing.remove)
    app.add_typer(expert, name="expert")


def experts(
    owner: Annotated[str, typer.Option(help="Those of one node only.")] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """List the experts and their newest versions; every manifest's signature is checked."""
    from swarm.cli.places import find_place
    from swarm.cli.verified import verified_registry

    place = find_place(home)

    async def work() -> None:
        async with verified_registry(place) as registry:
            heads = await registry.client.heads(owner)
            if owner and not heads:
                await _check_member(place, owner)
            manifests = [(head, (await registry.manifest(head.manifest)).value) for head in heads]
            health = await registry.client.health()
        rows = [
            (
                head.expert,
                head.version,
                manifest.net.factory,
                ", ".join(manifest.class_names),
                f"{accuracy:.3f}"
                if (accuracy := manifest.metrics.get("validation_accuracy")) is not None
                else "-",
                bytes_text(sum(module.size_bytes for module in manifest.modules)),
                manifest.share,
            )
            for head, manifest in manifests
        ]
        header = ("expert", "version", "net", "classes", "validation", "size", "share")
        facts = [{"head": head, "manifest": manifest} for head, manifest in manifests]
        owners = [each for each in health.owners if owner in ("", each.owner)]
        filled = [_fills(each) for each in owners if each.size_bytes or each.refused_bytes]
        lines = [table(header, rows)]
        if filled:
            quota = health.node_quota_bytes
            limit = f"; each node may fill {bytes_text(quota)}" if quota else ""
            lines.append(f"In the registry, all versions: {', '.join(filled)}{limit}")
        says = {"experts": facts, "owners": owners, "node_quota_bytes": health.node_quota_bytes}
        emit("experts", says, as_json=json, text="\n".join(lines))

    run_async(work())


def _fills(owner: "OwnerBytes") -> str:
    refused = f" ({bytes_text(owner.refused_bytes)} more refused)" if owner.refused_bytes else ""
    return f"{owner.owner} {bytes_text(owner.size_bytes)}{refused}"


async def _check_member(place: "Place", owner: str) -> None:
    """Raise NotFoundError where nobody of that name ever joined; a member may have published nothing."""
    from swarm.cli.places import coordinator
    from swarm.domain.errors import NotFoundError
    from swarm.domain.ids import node_id

    async with coordinator(place) as client:
        members = {view.id for view in (await client.status()).nodes}
    if node_id(owner) not in members:
        raise NotFoundError(
            f"owner {owner}",
            found="no node of that name",
            expected=f"one of {', '.join(sorted(members)[:20])}" if members else "a node that joined",
            remedy="list them: swarm status",
        )


def show(expert_id: VersionName, home: Home = None, json: Json = False) -> None:
    """Show one expert's manifest: modules, classes, parents, cost."""
    from swarm.cli.places import find_place
    from swarm.cli.verified import verified_registry

    wanted = reference(expert_id)

    async def work() -> None:
        async with verified_registry(find_place(home)) as registry:
            statement = await registry.manifest(wanted.name, wanted.version)
        text = describe_manifest(statement.value, statement.digest)
        emit("expert", {"manifest": statement.value, "digest": statement.digest}, as_json=json, text=text)

    run_async(work())


def lineage(expert_id: VersionName, home: Home = None, json: Json = False) -> None:
    """Show where a version came from and what came from it."""
    from swarm.cli.places import find_place
    from swarm.cli.verified import verified_registry
    from swarm.domain.errors import SwarmError

    wanted = reference(expert_id)

    async def work() -> None:
        metrics: dict[str, Mapping[str, float]] = {}
        async with verified_registry(find_place(home)) as registry:
            if wanted.version:
                digest = (await registry.manifest(wanted.name, wanted.version)).digest
                found = await registry.client.lineage(manifest=digest)
            elif wanted.is_digest:
                found = await registry.client.lineage(manifest=wanted.name)
            else:
                found = await registry.client.lineage(expert=wanted.name)
            for child in () if json else borrowers(found):
                with contextlib.suppress(SwarmError):  # the graph is told all the same
                    metrics[child] = (await registry.manifest(child)).value.metrics
        emit("lineage", {"lineage": found}, as_json=json, text=describe_lineage(found, metrics))

    run_async(work())


def borrowers(found: "Lineage") -> list[str]:
    """Return the manifests of the versions that started from another owner's weights."""
    return [edge.child for edge in found.edges if edge.kind == "borrowed-from"]


def describe_lineage(found: "Lineage", metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return the graph as one line for each version, newest first, with its parents.

    metrics: by manifest those of versions that borrowed, as far as they are known.
    """
    label = {node.manifest: f"{node.expert}@{node.version}" for node in found.nodes}
    rows = []
    for node in found.nodes:
        parents = []
        for edge in found.edges:
            if edge.child == node.manifest:
                worth = _worth(node, metrics) if edge.kind == "borrowed-from" else ""
                parents.append(f"{edge.kind} {label.get(edge.parent, edge.parent[:12])}{worth}")
        rows.append((label[node.manifest], node.manifest[:12], node.standing, "; ".join(parents) or "-"))
    return table(("version", "manifest", "standing", "parents"), rows)


def _worth(child: "LineageNode", metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return what borrowing was worth to a version, or which command shows its metrics."""
    own, start = metrics.get(child.manifest), "borrow_accuracy_at_"
    if own is None:
        return f" (its metrics: swarm expert show {child.manifest})"
    for name, accuracy in own.items():
        steps = name.removeprefix(start)
        alone = own.get(f"random_accuracy_at_{steps}")
        if name.startswith(start) and alone is not None:
            return f" (after {steps} steps {accuracy:.3f}, from random weights {alone:.3f})"
    return ""


def describe_manifest(manifest: "Manifest", digest: str) -> str:
    """Return a manifest for people."""
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in sorted(manifest.metrics.items()))
    rows = [(m.name, len(m.tensors), bytes_text(m.size_bytes), m.digest[:12]) for m in manifest.modules]
    about = (
        f"{manifest.expert}@{manifest.version}  manifest {digest[:12]}  owner {manifest.owner}"
        f"  leaf {manifest.leaf}",
        f"net {manifest.net.factory}, classes {', '.join(manifest.class_names)}, share {manifest.share}",
        f"trained with {manifest.cost.train_flops:.2e} FLOPs on {manifest.cost.samples_seen} samples seen"
        f" in {manifest.cost.duration_s:.1f} s; {manifest.cost.inference_flops:.2e} FLOPs for a query",
        f"metrics: {metrics or 'none'}",
    )
    return "\n".join([*map(printable, about), table(("module", "tensors", "size", "digest"), rows)])
