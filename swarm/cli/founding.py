"""`swarm init` and `swarm token ...`: found a swarm and let others in."""

from pathlib import Path
from typing import Annotated

import typer

from swarm.cli.options import Home, ImportPath, Json, import_paths, names, resolved_source, seconds
from swarm.cli.output import emit, progress, run_async, table
from swarm.config import home_flag
from swarm.domain.specification import MAX_NEW_CLASSES_PER_OWNER

token = typer.Typer(
    help="Join tokens, and bearer tokens of HTTP callers: make, list, revoke.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    app.command("init")(init)
    token.command("create")(create)
    token.command("list")(list_)
    token.command("revoke")(revoke)
    app.add_typer(token, name="token")


def init(
    name: Annotated[str, typer.Argument(help="The swarm's name.")] = "swarm",
    data: Annotated[
        str,
        typer.Option(help="A data source to take input shape, dtype, preprocessing and class names from."),
    ] = "",
    input_shape: Annotated[str, typer.Option(help="Instead of --data: sizes of one input, as 28,28.")] = "",
    input_dtype: Annotated[str, typer.Option(help="uint8 or float32.")] = "float32",
    scale: Annotated[float | None, typer.Option(help="A net sees raw * scale + offset.")] = None,
    offset: Annotated[float | None, typer.Option(help="A net sees raw * scale + offset.")] = None,
    classes: Annotated[str, typer.Option(help="Class names, separated by commas.")] = "",
    closed: Annotated[bool, typer.Option("--closed", help="Accept no class beyond these.")] = False,
    trunk: Annotated[
        str, typer.Option(help="randconv-sqrt:K, identity, or package.module:factory[@file.safetensors].")
    ] = "randconv-sqrt:64",
    min_leaf_count: Annotated[
        int, typer.Option(min=1, help="Leaves with fewer samples are not contributed.")
    ] = 20,
    max_leaves: Annotated[int, typer.Option(min=1, help="Leaves per owner.")] = 8,
    max_prototypes: Annotated[int, typer.Option(min=1, help="Prototypes per leaf.")] = 60,
    max_new_classes: Annotated[
        int, typer.Option(min=1, help="Class names per owner besides yours.")
    ] = MAX_NEW_CLASSES_PER_OWNER,
    host: Annotated[
        str, typer.Option(help="The name or address that other machines reach this one by.")
    ] = "",
    registry_host: Annotated[
        str, typer.Option(help="The same for the registry, where it runs on another machine.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the trunk's random filters.")] = 0,
    import_path: ImportPath = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Found a swarm: its CA, its services' identities, the signed specification, and the first join line."""
    from swarm.cli.places import home_folder
    from swarm.cli.settings import load_settings

    root = home_folder(home)
    settings = load_settings(root)
    progress(f"founding {name} in {root}")
    from swarm.cli.initialise import Wanted, found

    line, kind = found(
        root,
        settings,
        Wanted(
            name=name,
            data=resolved_source(data) if data else "",
            input_shape=tuple(int(side) for side in names(input_shape)) if _sizes(input_shape) else (),
            input_dtype=input_dtype,
            scale=scale,
            offset=offset,
            class_names=names(classes),
            accept_new_classes=not closed,
            trunk=trunk,
            min_leaf_count=min_leaf_count,
            max_leaves=max_leaves,
            max_prototypes=max_prototypes,
            max_new_classes=max_new_classes,
            host=host,
            registry_host=registry_host,
            seed=seed,
            import_paths=import_paths(import_path),
        ),
    )
    text = (
        f"swarm {name}: input {list(kind.shape)} {kind.dtype}, classes {', '.join(kind.class_names)}\n"
        f"Losing {root / 'ca'} loses the swarm: swarm backup FILE {home_flag(root)}\n"
        f"Start it:   swarm redis, swarm registry and swarm coordinator, each with {home_flag(root)}\n"
        f"Then on another machine:\n{line}"
    )
    facts = {"swarm": name, "home": str(root), "join_line": line.removeprefix("swarm join ")}
    emit("init", {**facts, "input": kind}, as_json=json, text=text)


def _sizes(text: str) -> bool:
    if text and not all(part.isdigit() for part in names(text)):
        raise typer.BadParameter(f"--input-shape {text!r}: write sizes as 28,28")
    return bool(text)


def create(
    role: Annotated[str | None, typer.Option(help="node, client or operator (node).")] = None,
    uses: Annotated[int | None, typer.Option(min=1, help="How often it may be used (1).")] = None,
    lifetime: Annotated[str, typer.Option(help="How long it is valid: 45m, 24h, 7d.")] = "24h",
    bearer: Annotated[
        str, typer.Option(metavar="NAME", help="A bearer token for this caller over HTTP instead.")
    ] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Make a join token and print the line to run on the new machine; or a bearer token, and print it."""
    from swarm.cli.places import coordinator, find_place

    if bearer:
        if role is not None or uses is not None:
            raise typer.BadParameter(
                f"{'--role' if role is not None else '--uses'} is of join tokens; leave it out"
            )
        _create_bearer(bearer, seconds(lifetime, "--lifetime"), home, as_json=json)
        return
    role = role or "node"
    if role not in ("node", "client", "operator"):
        raise typer.BadParameter(f"--role {role!r}: choose node, client or operator")
    lifetime_s = seconds(lifetime, "--lifetime")

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            line, view = await client.create_token(role, uses or 1, lifetime_s)  # type: ignore[arg-type]
        facts = {"join_line": line.removeprefix("swarm join "), "token": view}
        as_role = "" if role == "node" else f" --role {role}"
        emit("token", facts, as_json=json, text=f"swarm join {facts['join_line']}{as_role}")

    run_async(work())


def _create_bearer(name: str, lifetime_s: float, home: Path | None, *, as_json: bool) -> None:
    from swarm.cli.places import coordinator, find_place
    from swarm.domain.errors import InvalidInputError, UsageError
    from swarm.domain.ids import node_id

    try:
        holder = node_id(name)
    except InvalidInputError as error:
        raise UsageError(
            "--bearer", found=error.found, expected=error.expected, remedy=error.remedy
        ) from None

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            token, view = await client.create_bearer(holder, lifetime_s)
        emit("bearer", {"bearer": token, "token": view}, as_json=as_json, text=token)

    run_async(work())


def list_(home: Home = None, json: Json = False) -> None:
    """List the tokens and how often each may still be used. Their secrets are not kept anywhere."""
    from swarm.cli.clock import ahead
    from swarm.cli.places import coordinator, find_place

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            found = await client.tokens()
        rows = [
            (
                view.id,
                f"bearer {view.bearer}" if view.bearer else view.role,
                "" if view.bearer else view.uses_left,
                ahead(view.expires_at),
            )
            for view in found
        ]
        emit(
            "tokens",
            {"tokens": found},
            as_json=json,
            text=table(("token", "role", "uses left", "expires"), rows),
        )

    run_async(work())


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID")], home: Home = None, json: Json = False
) -> None:
    """Make a token worthless. Who joined with it stays; who called by it is refused from now on."""
    from swarm.cli.places import coordinator, find_place

    async def work() -> None:
        async with coordinator(find_place(home)) as client:
            await client.revoke_token(token_id)
        emit("token-revoked", {"id": token_id}, as_json=json, text=f"token {token_id} is revoked")

    run_async(work())
