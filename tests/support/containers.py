"""Which container engine answers here, and how its Compose is called."""

import shutil
import subprocess

COMPOSES = (("docker", "compose"), ("docker-compose",))
"""Compose v2, a part of the engine's command, and 1.29, a command of its own."""


class NoContainersError(Exception):
    """Nothing here runs containers; says what is missing."""


def compose_command() -> tuple[str, ...]:
    """Return the words that call Compose; NoContainersError where it or its engine is missing."""
    if not _answers("docker", "version"):
        raise NoContainersError("no container engine answers here: install Docker with Compose 1.29 or newer")
    for command in COMPOSES:
        if _answers(*command, "version"):
            return command
    raise NoContainersError(
        "a container engine answers here, but neither docker compose nor docker-compose:"
        " install Compose 1.29 or newer"
    )


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
