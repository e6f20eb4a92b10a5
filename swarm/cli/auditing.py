"""`swarm audit`: who was answered, when, by which gate and experts; from the founder's home."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from swarm.cli.options import Home, Json
from swarm.cli.output import emit, table

_SHOWN = 200


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit")(audit)


def audit(
    since: Annotated[str, typer.Option(help="How far back to look: 45s, 10m, 24h, 7d.")] = "24h",
    caller: Annotated[str, typer.Option(help="Only callers with this in their role/name.")] = "",
    home: Home = None,
    json: Json = False,
) -> None:
    """Show who asked the coordinator what sort of query, what became of it, and who answered."""
    from coordinator.answer_trail import read_trail
    from coordinator.config import CoordinatorFolder
    from swarm.cli.options import seconds
    from swarm.cli.places import founder_home

    from_on = datetime.now(UTC) - timedelta(seconds=min(seconds(since, "--since"), 3650 * 86_400.0))
    folder = CoordinatorFolder(founder_home(home).coordinator).audit
    lines = list(read_trail(folder, from_on.isoformat(timespec="milliseconds"), caller))
    emit("audit", {"queries": lines}, as_json=json, text=_described(lines, since, caller))


def _described(lines: list[dict[str, object]], since: str, caller: str) -> str:
    if not lines:
        return f"nobody{f' with {caller!r} in their role/name' if caller else ''} asked in the last {since}"
    rows = [
        (
            str(line.get("at", ""))[:19],
            str(line.get("caller", "")),
            str(line.get("model", "")),
            str(line.get("rows", "")),
            str(line.get("outcome", "")),
            str(line.get("gate_version", "")),
            _answered_by(line),
        )
        for line in lines[-_SHOWN:]
    ]
    text = table(("at (UTC)", "caller", "model", "rows", "outcome", "gate", "experts"), rows)
    more = len(lines) - len(rows)
    return f"{text}\n{more} earlier ones: --json lists all" if more > 0 else text


def _answered_by(line: dict[str, object]) -> str:
    experts = line.get("experts")
    named = ", ".join(str(each) for each in experts[:4]) if isinstance(experts, list) else ""
    return named + (" ..." if isinstance(experts, list) and len(experts) > 4 else "")
