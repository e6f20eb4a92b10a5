"""How the command speaks: JSON or text on stdout, progress and errors on stderr, and the exit code."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from swarm.domain.plain import plain as plain  # noqa: PLC0414 - others take it from here
from swarm.domain.sizes import bytes_text as bytes_text  # noqa: PLC0414 - others take it from here

if TYPE_CHECKING:
    import typer

    from swarm.domain.errors import SwarmError

T = TypeVar("T")
USAGE = 2
INTERRUPTED = 130
ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def printable(text: str) -> str:
    """Return one line that a terminal shows as it is: what cannot be printed is escaped, as `\\x1b` or `\\n`.

    Activities, reasons and names of metrics are written by other members: control characters, line ends and
    bidirectional overrides in them would rewrite what the terminal shows.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


def _shown(text: str) -> str:
    """Return lines as the terminal may have them: only their own ends are left of what is not printable."""
    return "\n".join(map(printable, text.split("\n")))


def emit(name: str, payload: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Print a result: with as_json one object `{"schema": "swarm.<name>/1", ...}`, else the text."""
    if as_json:
        print(json.dumps({"schema": f"swarm.{name}/1", **plain(payload)}, allow_nan=False), flush=True)
    elif text:
        say(text)


def say(text: str) -> None:
    """Print text on stdout; what is not printable is escaped."""
    print(_shown(text), flush=True)


def progress(message: str) -> None:
    """Print one line of progress on stderr; what is not printable is escaped."""
    print(printable(message), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Print lines on stderr; what is not printable in them is escaped."""
    print(_shown(text), file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns: numbers to the right, the rest to the left. A cell stays one printable line."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        placed = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        return "  ".join(placed).rstrip()

    return "\n".join([line(list(header)), *(line(row) for row in cells)])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?( [kMGT]?B)?", text) is not None


def describe(error: "SwarmError") -> str:
    """Return an error as people read it: subject, found, expected, and the next thing to try."""
    lines = [f"error: {error.subject}"]
    lines += [f"  found:    {error.found}"] if error.found else []
    lines += [f"  expected: {error.expected}"] if error.expected else []
    lines += [f"  try:      {error.remedy}"] if error.remedy else []
    return "\n".join(map(printable, lines))


@contextlib.contextmanager
def advised(subject: str, remedy: str) -> Iterator[None]:
    """Give errors whose subject begins so, and that come without a remedy, this one."""
    from swarm.domain.errors import SwarmError

    try:
        yield
    except SwarmError as error:
        if error.subject.startswith(subject):
            error.remedy = error.remedy or remedy
        raise


def run_guarded(app: "typer.Typer", arguments: Sequence[str]) -> int:
    """Run the app and return the process's exit code; print errors by the table, never a traceback.

    `SWARM_DEBUG=1` lets the traceback through.
    """
    import typer

    from swarm.domain.errors import SwarmError

    as_json = "--json" in arguments
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="swarm", standalone_mode=False)
        if code == INTERRUPTED:
            progress("interrupted")
        return code if isinstance(code, int) else 0
    except SwarmError as error:
        if os.environ.get("SWARM_DEBUG"):
            raise
        return _report(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        progress("interrupted")
        return INTERRUPTED
    except typer.Exit as exit_:
        return exit_.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _unexpected(error, as_json=as_json)


def _unexpected(error: Exception, *, as_json: bool) -> int:
    import click

    from swarm.domain.errors import ExhaustedError, UsageError

    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # since click 8.2
        note(str(error))  # its message is the help
        return USAGE
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "swarm"
        found = UsageError("command line", found=error.format_message().rstrip("."), remedy=f"{where} --help")
        return _report(found, as_json=as_json)
    if os.environ.get("SWARM_DEBUG"):
        raise error
    if isinstance(error, OSError):
        subject = str(error.filename) if error.filename else "operating system"
        return _report(
            ExhaustedError(subject, found=error.strerror or str(error), remedy="swarm doctor"),
            as_json=as_json,
        )
    from swarm.domain.errors import SwarmError

    fault = SwarmError(
        "a fault in swarm itself",
        found=f"{type(error).__name__}: {error}",
        remedy="run the same command with SWARM_DEBUG=1 and report what it prints",
    )
    return _report(fault, as_json=as_json)


def _report(error: "SwarmError", *, as_json: bool) -> int:
    note(describe(error))
    code = _exit_code(error)
    if as_json:
        facts = {"code": error.code, "subject": error.subject, "found": error.found}
        facts |= {"expected": error.expected, "try": error.remedy}
        emit("error", {**facts, "exit_code": code}, as_json=True, text="")
    return code


def _exit_code(error: "SwarmError") -> int:
    from swarm.domain.errors import UsageError

    if isinstance(error, UsageError):
        return USAGE
    from swarm.rpc.status import exit_code

    return exit_code(error)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run work to its end; SIGTERM and a closed terminal end it as Ctrl-C does, with its clean-up run."""

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

        def end() -> None:
            if not task.cancelling():  # a second signal must not cut the clean-up short
                task.cancel()

        for ending in ENDINGS:
            if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup means it
                with contextlib.suppress(NotImplementedError):
                    loop.add_signal_handler(ending, end)
        try:
            return await task
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    return asyncio.run(guarded())


def let_nothing_interrupt() -> None:
    """Ignore Ctrl-C and every other polite end from here on: a clean-up is under way."""
    for ending in (signal.SIGINT, *ENDINGS):
        with contextlib.suppress(ValueError):  # not the main thread: signals do not come here
            signal.signal(ending, signal.SIG_IGN)
