"""`swarm backup` and `swarm restore`: the CA, the services' state and Redis, in one private file."""

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import bytes_text, emit, progress, run_async
from swarm.config import SwarmHome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from swarm.domain.ids import SwarmId
    from swarm.registry.redis_store import RedisStore

RedisUrl = Annotated[str | None, typer.Option(help="The Redis to use; without it the one of swarm redis.")]


def register(app: typer.Typer) -> None:
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write (mode 0600): it holds the CA's key.")],
    blobs: Annotated[
        bool | None,
        typer.Option(
            "--blobs/--no-blobs",
            help="Also the weights (where they lie in a folder); else their owners publish again.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    redis_url: RedisUrl = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Write the founder's home and Redis to one file. Losing the CA loses the swarm: keep this file safe."""
    from swarm.cli.archive import write_archive
    from swarm.cli.blob_places import check_here, known_place
    from swarm.cli.destinations import check_destination, check_new
    from swarm.cli.places import Place, founder_home
    from swarm.cli.settings import load_settings

    founder = founder_home(home)
    check_destination(file, "backup")
    if not overwrite:
        check_new(file, "backup")
    settings = load_settings(founder.root, redis_url=redis_url)
    url = settings.redis_url
    swarm = Place(founder.root, is_node=False).identity().swarm
    place = known_place(founder, settings.registry_blobs)
    if place.url and blobs:
        _refuse_bucket(place.url)
    with_blobs = blobs is not False and not place.url
    if with_blobs:
        check_here(place, founder)

    async def work() -> int:
        async with _store(founder, url, swarm) as store:
            rows = [row async for row in store.dump()]
        write_archive(file, founder, swarm, rows, with_blobs=with_blobs, blob_folder=place.folder)
        return len(rows)

    keys = run_async(work())
    size = file.stat().st_size
    weights = f"the weights of {place.folder}" if with_blobs else f"NO WEIGHTS: they are in {place.name}"
    text = (
        f"{file}: {bytes_text(size)}, {keys} Redis keys, {weights}\n"
        "It holds the CA's KEY: keep it as safe as the home itself"
    )
    facts = {"file": str(file), "size_bytes": size, "redis_keys": keys, "blobs": with_blobs}
    emit("backup", {**facts, "blob_place": place.name}, as_json=json, text=text)


def _refuse_bucket(url: str) -> None:
    from swarm.domain.errors import UsageError

    raise UsageError(
        "--blobs",
        found=f"blobs in {url}",
        expected="blobs in a folder",
        remedy="leave --blobs out, and use the bucket's own versioning or replication",
    )


def restore(
    file: Annotated[Path, typer.Argument(help="A file that swarm backup wrote.")],
    bearer_tokens: Annotated[
        bool,
        typer.Option(
            "--bearer-tokens",
            help="Bearer tokens count as when the backup was made, those revoked since too; else none does.",
        ),
    ] = False,
    redis_url: RedisUrl = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Make a founder's home from a backup, in an empty folder and an empty Redis."""
    from swarm.cli.archive import read_archive
    from swarm.cli.places import home_folder
    from swarm.cli.settings import load_settings

    founder = SwarmHome(home_folder(home))
    url = load_settings(founder.root, redis_url=redis_url).redis_url
    kept = read_archive(file, founder, bearer_tokens=bearer_tokens)

    async def work() -> None:
        async with _store(founder, url, kept.swarm) as store:
            await store.restore_dump(kept.rows)

    run_async(work())
    progress("members keep their certificates; start the services at the addresses they know")
    for line in _about_weights(founder, has_blobs=kept.blobs):
        progress(line)
    if kept.bearers_revoked:
        progress(
            f"{kept.bearers_revoked} bearer tokens do not count any more, for nobody knows which were revoked"
            " since the backup; make new ones: swarm token create --bearer NAME"
        )
    text = f"swarm {kept.swarm} is restored in {founder.root}: swarm redis, swarm registry, swarm coordinator"
    facts = {"swarm": kept.swarm, "home": str(founder.root), "redis_keys": len(kept.rows)}
    facts |= {"blobs": kept.blobs, "bearer_tokens_revoked": kept.bearers_revoked}
    emit("restore", facts, as_json=json, text=text)


def _about_weights(founder: SwarmHome, *, has_blobs: bool) -> list[str]:
    """Return what to do about weights that the file did not hold, or that this home looks for elsewhere."""
    from swarm.cli.blob_places import blob_place
    from swarm.cli.settings import load_settings

    place, own = blob_place(load_settings(founder.root).registry_blobs, founder), founder.registry / "blobs"
    if not has_blobs:
        return [
            "the weights are not in this backup: start the registry where they lie (--blobs), or let their"
            " owners bring them once all runs: swarm registry rebuild"
        ]
    if place.url or place.folder != own:
        return [
            f"the weights are in {own}, but registry_blobs names {place.name}: move them there, or drop the"
            " setting"
        ]
    return []


@asynccontextmanager
async def _store(founder: SwarmHome, url: str, swarm: "SwarmId") -> "AsyncIterator[RedisStore]":
    """Open the swarm's Redis: the given one, the home's running one, or the home's own started for this."""
    from swarm.domain.errors import ConflictError
    from swarm.registry.redis_server import RedisServer, redis_url
    from swarm.registry.redis_store import connect_redis

    server = None
    if not url:
        server = RedisServer(founder.redis)
        try:
            await server.start()
        except ConflictError:  # it runs already
            server = None
        url = server.url if server else redis_url(founder.redis)
    try:
        store = connect_redis(url, swarm)
        try:
            yield store
        finally:
            await store.close()
    finally:
        if server is not None:
            await server.stop()
