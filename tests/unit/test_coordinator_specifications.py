"""The specification's versions: signed, kept, and no larger than those who are in the gate need."""

from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.envelope_files import EnvelopeFiles
from coordinator.intended import Intended
from coordinator.specifications import Specifications
from swarm.domain.contributions import Contribution
from swarm.domain.errors import InvalidInputError
from swarm.domain.specification import Specification
from swarm.registry.memory_store import MemoryStore
from swarm.trust.statements import sign_statement
from tests.support.trust import Founded, contribution, found, specification


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return found(tmp_path_factory.mktemp("founded"))


@pytest.fixture
async def specifications(swarm: Founded, tmp_path: Path) -> Specifications:
    return await started(swarm, tmp_path, MemoryStore())


async def started(swarm: Founded, folder: Path, store: MemoryStore) -> Specifications:
    files = EnvelopeFiles(folder / "specification")
    files.put(1, sign_statement(founding(), swarm.coordinator_signer))
    intended = Intended(folder / "intended.json")
    made = Specifications(swarm.keyring(), swarm.coordinator_signer, store, files, intended)
    await made.synchronise()
    return made


def founding() -> Specification:
    return replace(specification(), max_new_classes_per_owner=2)


def having(owner: str, *classes: str) -> Contribution:
    value = contribution(owner)
    return replace(value, leaves=(replace(value.leaves[0], class_counts=dict.fromkeys(classes, 16)),))


async def test_who_leaves_the_gate_takes_the_classes_along_that_nobody_else_has(
    specifications: Specifications,
) -> None:
    ada, bob = having("ada", "beech", "oak", "ash"), having("bob", "ash", "yew")
    assert await specifications.accept(specifications.serving([ada, bob]))
    assert specifications.current.value.class_names == ("beech", "élm", "ash", "oak", "yew")
    assert specifications.serving([bob, ada]) is specifications.current
    without_ada = specifications.serving([bob])
    assert without_ada.value.class_names == ("beech", "élm", "ash", "yew")
    assert await specifications.accept(without_ada)
    # Whoever comes back to an older gate needs its classes again.
    assert set(specifications.serving([ada, bob]).value.class_names) == {"beech", "élm", "ash", "oak", "yew"}
    assert await specifications.accept(specifications.serving([]))
    now = specifications.current.value
    assert (now.version, now.class_names) == (4, founding().class_names)


async def test_older_versions_stay_readable_word_for_word(specifications: Specifications) -> None:
    first = specifications.current
    await specifications.accept(specifications.serving([having("ada", "oak")]))
    second = specifications.current
    await specifications.accept(specifications.serving([]))
    assert await specifications.envelope(1) == first.envelope
    assert await specifications.envelope(2) == second.envelope
    assert await specifications.envelope(0) == specifications.current.envelope


async def test_what_one_owner_may_not_bring_is_refused_and_several_together_may(
    specifications: Specifications,
) -> None:
    with pytest.raises(InvalidInputError, match="at most 2 of one owner"):
        specifications.next_with(("oak", "ash", "yew"))
    both = specifications.serving([having("ada", "oak", "ash"), having("bob", "yew", "fir")])
    assert both.value.class_names == ("beech", "élm", "ash", "fir", "oak", "yew")


async def test_a_version_that_was_signed_for_a_trial_only_does_not_count_because_the_store_has_it(
    swarm: Founded, tmp_path: Path
) -> None:
    store = MemoryStore()
    made = await started(swarm, tmp_path, store)
    tried = made.next_with(["oak"])
    await store.put_specification(2, tried.envelope)
    await made.synchronise()
    again = await started(swarm, tmp_path, store)
    assert made.current.value.version == again.current.value.version == 1


async def test_a_version_that_was_meant_counts_after_a_crash_between_the_store_and_the_folder(
    swarm: Founded, tmp_path: Path
) -> None:
    store = MemoryStore()
    made = await started(swarm, tmp_path, store)
    meant = made.next_with(["oak"])
    await made.accept(meant)
    (tmp_path / "specification" / "2.json").unlink()
    again = await started(swarm, tmp_path, store)
    assert again.current.digest == meant.digest
