"""The `swarm` command: one file per family of commands; each imports what it needs when it runs."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit with the code of DESIGN.md's table; never with a traceback."""
    from swarm.cli.app import build
    from swarm.cli.output import run_guarded

    sys.exit(run_guarded(build(), sys.argv[1:]))
