"""Whose classes a specification has: the founder's for good, others' while somebody has samples of them."""

from dataclasses import replace
from typing import Any

import pytest

from swarm.domain.errors import InvalidInputError
from swarm.domain.specification import MAX_NEW_CLASSES_PER_OWNER, Specification
from tests.support.trust import specification


def founded(**changes: Any) -> Specification:
    return replace(specification(), **changes)


def test_new_classes_make_the_next_version_behind_those_that_are_there() -> None:
    first = founded()
    second = first.with_classes(("oak", "beech", "ash"))
    assert (second.version, second.class_names) == (2, ("beech", "élm", "ash", "oak"))
    assert second.founders_classes == first.founders_classes == ("beech", "élm")
    assert first.with_classes(("élm",)) is first
    assert second.with_classes(("oak",)) is second


def test_classes_that_nobody_has_any_more_go_and_the_founders_stay() -> None:
    grown = founded().with_classes(("oak", "ash", "yew"))
    less = grown.of_classes(("yew", "beech"))
    assert (less.version, less.class_names) == (3, ("beech", "élm", "yew"))
    assert less.of_classes(()).class_names == founded().class_names
    assert less.of_classes(("yew",)) is less
    # Where others come and go meanwhile, the rest keeps its order.
    assert grown.of_classes(("yew", "oak", "bay")).class_names == ("beech", "élm", "oak", "yew", "bay")


def test_one_owner_brings_only_so_many_classes_over_all_its_contributions() -> None:
    swarm = founded(max_new_classes_per_owner=3)
    grown = swarm.with_classes(("a", "b", "c", "beech", "élm"))
    with pytest.raises(InvalidInputError) as caught:
        grown.with_classes(("a", "b", "c", "d"))
    said = str(caught.value)
    assert "4 that the swarm was not founded with" in said and "at most 3 of one owner" in said
    assert "swarm init" in said
    # Another owner has its own share, and what it shares with the first counts as any other.
    assert grown.with_classes(("c", "x", "y")).class_names == (*grown.class_names, "x", "y")
    # Those of the founder are no new ones, however many.
    many = tuple(f"class {number}" for number in range(2000))
    large = founded(class_names=many)
    assert large.with_classes(many) is large


def test_an_ordinary_data_set_of_a_thousand_classes_is_welcome() -> None:
    names = tuple(f"n{number:08}" for number in range(MAX_NEW_CLASSES_PER_OWNER))
    assert len(founded().with_classes(names).class_names) == MAX_NEW_CLASSES_PER_OWNER + 2
    with pytest.raises(InvalidInputError, match="1001 that the swarm was not founded with"):
        founded().with_classes((*names, "one more"))


def test_a_swarm_that_accepts_no_new_classes_says_which_it_knows() -> None:
    closed = founded(accept_new_classes=False)
    with pytest.raises(InvalidInputError, match=r"unknown classes oak; expected one of beech, élm"):
        closed.with_classes(("beech", "oak"))
    assert closed.with_classes(("beech",)) is closed


@pytest.mark.parametrize("changes", [{"founding_classes": 3}, {"founding_classes": -1}])
def test_founding_classes_are_among_the_classes(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="founding classes of 2"):
        founded(**changes)
    with pytest.raises(InvalidInputError, match="at least 1 each"):
        founded(max_new_classes_per_owner=0)


def test_a_swarm_that_was_founded_without_classes_has_none_of_its_own() -> None:
    empty = founded(class_names=())
    grown = empty.with_classes(("oak",))
    assert (grown.class_names, grown.founders_classes) == (("oak",), ())
    assert grown.of_classes(()).class_names == ()
