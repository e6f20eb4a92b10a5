"""What the documents promise is there: tests by name, files by link, numbers by benchmark."""

import re
from pathlib import Path

from benchmarks.demo.table import README, with_table

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def test_every_test_that_the_invariants_and_the_threat_model_name_exists() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("invariants.md", "threat-model.md")]
    named = set(re.findall(r"`(test_\w+)`", "".join(pages)))
    written = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        written |= set(re.findall(r"^\s*(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE))
    assert len(named) > 30
    assert named - written == set()


def test_every_link_to_a_file_leads_somewhere() -> None:
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert broken == []


def test_the_readmes_table_is_that_of_the_last_benchmark() -> None:
    assert with_table(README.read_text()) == README.read_text()
