"""Other projects' transports as arms beside ours, from packages that pip puts into a folder of their own."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.registry.talking import Talker
from benchmarks.registry.transfers import Taken, taken

# Without their dependencies: torchft's are for other parts of it, NVFlare's largest are here already.
PACKAGES: Final[Mapping[str, Sequence[str]]] = {
    "torchft": ("torchft==0.2.0",),
    "nvflare": (
        *("nvflare==2.9.0", "msgpack", "pyhocon", "pyparsing", "docker"),
        *("requests", "urllib3", "idna", "certifi", "charset-normalizer"),
    ),
}


def installed(folder: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """Return where each package lies that can be had; of the others say why not."""
    found = {}
    for name, packages in PACKAGES.items():
        target = folder / name
        if not (target / name).is_dir():
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(target),
            ]
            done = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
            if done.returncode:
                say(f"{name}: not measured, pip could not install it: {done.stderr.strip()[-300:]}")
                continue
        found[name] = target
    return found


@contextmanager
def arms(
    packages: Mapping[str, Path], size_bytes: int, say: Callable[[str], None]
) -> Iterator[dict[str, Callable[[], Taken]]]:
    """Run a sender and a receiver of each, and yield how one transfer is taken."""
    module = "benchmarks.registry.other_transports"
    with ExitStack() as stack:
        made: dict[str, Callable[[], Taken]] = {}
        for name, folder in packages.items():
            try:
                sender = stack.enter_context(Talker(module, name, "serve", str(size_bytes), path=folder))
                address = str(sender.ready["address"])
                receiver = stack.enter_context(Talker(module, name, "receive", address, path=folder))
            except RuntimeError as error:
                say(f"{name}: not measured, {error}")
                continue
            made[name] = _arm(sender, receiver)
        yield made


def _arm(sender: Talker, receiver: Talker) -> Callable[[], Taken]:
    return lambda: taken(sender, receiver, asked=receiver, do="receive")
