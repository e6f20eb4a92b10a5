"""`swarm registry collect`: remove the blobs that nothing needs any more, or say which they are and why."""

from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import bytes_text, emit, run_async, table

if TYPE_CHECKING:
    from swarm.domain.collection import BlobVerdict, Collection


def collect(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing: list what would go, and why the rest stays.")
    ] = False,
    home: Home = None,
    json: Json = False,
) -> None:
    """Remove what no head, kept version or gate in reach needs. The registry does so by itself as well."""
    from swarm.cli import places

    async def work() -> None:
        async with places.registry(places.operator_place(home)) as client:
            found = await client.collect(dry_run=dry_run)
        emit(
            "registry-collect",
            {"dry_run": dry_run, "collection": found},
            as_json=json,
            text=describe(found, dry_run=dry_run),
        )

    run_async(work())


def describe(found: "Collection", *, dry_run: bool) -> str:
    """Return what went or would go, and the largest that stay, as people read it."""
    verb = "would go" if dry_run else "went"
    lines = [
        f"{found.gone_blobs} blobs {verb}, {bytes_text(found.gone_bytes)}; "
        f"{found.kept_blobs} stay, {bytes_text(found.kept_bytes)}"
    ]
    if found.gone:
        lines += [f"What {verb}:", _table(found.gone)]
    if found.largest_kept:
        lines += ["The largest that stay, and why:", _table(found.largest_kept)]
    return "\n".join(lines)


def _table(verdicts: "tuple[BlobVerdict, ...]") -> str:
    rows = [(each.blob[:12], bytes_text(each.size_bytes), each.reason) for each in verdicts]
    return table(("blob", "size", "why"), rows)
