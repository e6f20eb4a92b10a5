"""One way to name an expert's version, and what is said to a wrong one."""

import pytest

from swarm.cli.references import Reference, reference
from swarm.domain.errors import UsageError

DIGEST = "9332afed0f27" + "0" * 52


def test_an_expert_a_version_and_a_digest_are_understood() -> None:
    assert reference("ada.e1") == Reference(name="ada.e1")
    assert reference("ada.e1@3") == Reference(name="ada.e1", version=3)
    assert reference(DIGEST) == Reference(name=DIGEST)
    assert reference(DIGEST).is_digest and not reference("ada.e1@3").is_digest


@pytest.mark.parametrize(
    "wrong", ["ada", "ada.e1@0", "ada.e1@", "@1", "ada.e1@x", "", "ada.e1@1@2", "ada.l1"]
)
def test_another_text_is_refused_with_the_forms_that_there_are(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"ada\.e1@3"):
        reference(wrong)


def test_the_digits_that_tables_print_are_said_to_be_a_beginning() -> None:
    with pytest.raises(UsageError, match="the beginning of a digest"):
        reference(DIGEST[:12])
