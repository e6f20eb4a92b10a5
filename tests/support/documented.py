"""A document's examples, run as they are printed: `sh` and `python` blocks with a `text` block after each."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EXAMPLE = re.compile(r"^```(sh|python)\n(.*?)^```\n+```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A block of a document, and what running it prints."""

    language: str
    code: str
    prints: str
    line: int


def examples_of(document: str) -> list[Example]:
    """Return the examples that say what they print, in their order."""
    return [
        Example(found[1], found[2], found[3].strip(), document.count("\n", 0, found.start()) + 1)
        for found in _EXAMPLE.finditer(document)
    ]


def ran(language: str, code: str, folder: Path, **environment: str) -> str:
    """Return what an example prints when it runs in folder; it has to end well."""
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-ec", code]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def grpcurl_line(document: str) -> tuple[dict[str, Any], str]:
    """Return the message and the method (`package.Service/Method`) of a document's grpcurl example."""
    found = re.search(r"^```grpcurl\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    assert found is not None
    words = shlex.split(found[1].replace("\\\n", " "))
    return json.loads(words[words.index("-d") + 1]), words[-1]
