"""The `swarm` command: one file per family of commands; each imports what it needs when it runs."""

import sys

from swarm.exits import leave_process
from swarm.skipped_imports import without

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with the code of DESIGN.md's table; never with a traceback."""
    try:
        _import_structlog()
        from swarm.cli.app import build
        from swarm.cli.output import run_guarded

        leave_process(run_guarded(build(), sys.argv[1:]))
    except KeyboardInterrupt:  # before the command itself was there to say so
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _import_structlog() -> None:
    """Import it without what would colour tracebacks, which ours are not: a tenth of a command's start."""
    with without("rich"):
        import structlog  # noqa: F401
