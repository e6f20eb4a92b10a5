"""How far a transfer is, on a terminal: bytes, rate, remaining time. On stderr, never with --json."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def transfer_bar(what: str, *, as_json: bool = False) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Yield what is told how many bytes are to come; it returns what is told each piece of them."""
    if as_json or not sys.stderr.isatty():
        yield lambda total: lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def start(total: int) -> Callable[[int], None]:
            if not total:  # everything is here, or too small for a bar
                return lambda count: None
            task = progress.add_task(what, total=total)
            return lambda count: progress.advance(task, count)

        yield start
