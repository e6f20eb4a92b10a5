"""Ancestors that stay: as the rule says for any lineage, and found without walking it for each head."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.digests import digest_of
from swarm.domain.collection import RetentionPolicy
from swarm.domain.ids import Digest, ExpertId
from swarm.domain.lineage import descendants
from swarm.domain.manifests import Manifest, Parent
from swarm.registry.retention import kept_versions
from tests.support.trust import manifest


def named(row: int) -> Digest:
    return digest_of(b"%d" % row)


def lineage_of(rows: list[tuple[int, set[int]]]) -> dict[Digest, Manifest]:
    """Versions in the order in which they came: each of an expert, from earlier ones."""
    return {
        named(row): replace(
            manifest(number=number, version=row + 1),
            parents=tuple(Parent(kind="trained-from", manifest=named(each % row)) for each in sorted(froms))
            if row
            else (),
        )
        for row, (number, froms) in enumerate(rows)
    }


def newest_of_each(manifests: dict[Digest, Manifest]) -> dict[ExpertId, Digest]:
    return {made.expert: digest for digest, made in manifests.items()}


def kept(manifests: Any, heads: dict[ExpertId, Digest], ancestors: Any) -> dict[Digest, str]:
    policy = RetentionPolicy(keep_versions=1, keep_ancestors=ancestors)
    found = kept_versions(manifests, heads, [], lambda made: False, policy)
    return {digest: why.reason for digest, why in found.items()}


@pytest.mark.parametrize("ancestors", ["none", "borrowed", "all"])
@given(st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(0, 11), max_size=3)), max_size=12))
def test_what_any_head_came_from_stays_with_the_first_head_that_is_a_reason(
    ancestors: str, rows: list[tuple[int, set[int]]]
) -> None:
    manifests = lineage_of(rows)
    heads = newest_of_each(manifests)
    parents = {digest: [each.manifest for each in made.parents] for digest, made in manifests.items()}
    expected = {digest: f"head of {expert}" for expert, digest in heads.items()}
    for expert, head in heads.items():
        for each in descendants(parents, [head]):
            if ancestors == "all" or (ancestors == "borrowed" and manifests[each].expert != expert):
                expected.setdefault(each, f"ancestor of the head of {expert}")
    assert kept(manifests, heads, ancestors) == expected


class Counting(dict[Digest, Manifest]):
    """Manifests that count how often one is read."""

    reads = 0

    def __getitem__(self, digest: Digest) -> Manifest:
        self.reads += 1
        return super().__getitem__(digest)

    def get(self, digest: Digest, default: Any = None) -> Any:
        self.reads += 1
        return super().get(digest, default)

    def items(self) -> Any:
        self.reads += len(self)
        return super().items()


def test_many_heads_of_one_long_lineage_read_each_version_a_few_times() -> None:
    heads, length = 60, 200
    chain = [(1, {row - 1} if row else set[int]()) for row in range(length)]
    tips = [(number, {length - 1}) for number in range(2, heads + 2)]
    manifests = Counting(lineage_of([*chain, *tips]))
    kept(manifests, newest_of_each(manifests), "borrowed")
    assert manifests.reads < 10 * len(manifests)
