"""Options that several commands share, spelled once."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None,
    typer.Option(
        help="The founder's or the node's folder (SWARM_HOME; default: your data folder).", metavar="DIR"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Delta = Annotated[
    bool | None,
    typer.Option(
        "--delta/--no-delta",
        help="On a node: fetch deltas to versions that are here, for slow links (as node.toml says).",
    ),
]
ImportPath = Annotated[
    list[str] | None,
    typer.Option("--import-path", help="A folder that leads `package.module` names to files.", metavar="DIR"),
]
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str, flag: str) -> float:
    """Return a duration such as `90`, `45s`, `10m`, `24h` or `7d` in seconds, above 0.

    Raises UsageError, naming the flag that it was given with, for anything else.
    """
    from swarm.domain.errors import UsageError

    match = _DURATION.fullmatch(text.strip())
    length = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < length < math.inf:
        raise UsageError(flag, found=repr(text[:40]), expected="a time above 0, as 45s, 10m, 24h or 7d")
    return length


def resolved_source(data: str) -> str:
    """Return a data source with its path made absolute, as another process will open it."""
    path = Path(data).expanduser()
    return str(path.resolve()) if path.exists() else data


def import_paths(given: list[str] | None) -> tuple[str, ...]:
    """Return the folders that lead user modules, absolute; without any the working directory."""
    return tuple(str(Path(folder).expanduser().resolve()) for folder in given or ["."])


def names(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def check_sums(form: str, size_mb: float) -> None:
    """Raise UsageError for a `--sums` or `--sums-mb` that cannot be."""
    from swarm.domain.errors import UsageError

    if form not in ("auto", "exact", "compact", "none"):
        raise UsageError(
            "--sums",
            found=repr(form[:40]),
            expected="auto, exact, compact or none",
            remedy="leave --sums out for auto",
        )
    if not 0 < size_mb < float("inf"):
        raise UsageError(
            "--sums-mb",
            found=f"{size_mb:g}",
            expected="a number above 0",
            remedy="leave --sums-mb out for 4, or contribute no sums: --sums none",
        )
