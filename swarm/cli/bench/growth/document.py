"""docs/growth.md: each benchmark's section between its markers; what people write around them stays."""

from collections.abc import Sequence
from pathlib import Path

from swarm.domain.errors import InvalidInputError

HEAD = """# Growth

When does it pay to wait, to replay, to grow, to mix experts? The literature's claims at small scale, and this
system beside them. Sections between markers are written by their benchmark from its results.
"""


def begin(name: str) -> str:
    """Return the first marker of a section, which names the make target that writes it."""
    target = name if name.startswith("soak-") else f"bench-{name}"
    return f"<!-- {name}: make {target} -->"


def end(name: str) -> str:
    return f"<!-- end of {name} -->"


def with_section(document: str, name: str, section: str) -> str:
    """Return document with section between the benchmark's markers, at the end where it has none yet.

    Raises InvalidInputError for one marker without the other.
    """
    inside = f"{begin(name)}\n\n{section.strip()}\n\n{end(name)}"
    if begin(name) not in document and end(name) not in document:
        return f"{document.rstrip()}\n\n{inside}\n"
    before, first, rest = document.partition(begin(name))
    _, last, after = rest.partition(end(name))
    if not first or not last:
        raise InvalidInputError(
            f"section {name}", found="one marker", expected=f"{begin(name)} ... {end(name)}"
        )
    return before + inside + after


def write_section(path: Path, name: str, section: str) -> None:
    """Put a benchmark's section into the document at path, which is made where it is not."""
    document = path.read_text() if path.exists() else HEAD
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(with_section(document, name, section))


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
