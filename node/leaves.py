"""The node's own leaves across restarts: ids, versions, signed manifests, summaries, contribution epoch, and
how they grew: which were split or are no longer leaves, and by which proposal.

`state/leaves.json` is the index; `state/manifests/<digest>.json` keeps every manifest that this node signed,
where the expert server finds them; `state/leaves/<leaf>.npz` keeps each leaf's summary for the gate,
`<leaf>.sums.npz` its sums, `<leaf>.shard.npz` where its samples are, `<leaf>.memory` what its next update
needs and, of one that was split with a learned gate, `<leaf>.split.npy`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from node.durable import link_durably, write_durably, write_json
from node.growth.kept import KeptContributions
from node.growth.own_tree import OwnTree
from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest, ExpertId, LeafId, expert_of, number_of
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.trust.statements import Statement, read_statement

_SCHEMA = "swarm.leaves/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLeaf:
    """One leaf. `version` and `manifest` name the newest version that this node signed; `head_version` and
    `head` the newest that the registry accepted (0 and empty: none yet).

    `class_counts` is of the data that the leaf was trained on last; `import_paths` find its net's code.
    """

    leaf: LeafId
    version: int
    manifest: Digest
    head_version: int = 0
    head: str = ""
    class_counts: Mapping[str, int]
    import_paths: tuple[str, ...] = ()

    @property
    def expert(self) -> ExpertId:
        return expert_of(self.leaf)

    @property
    def number(self) -> int:
        return number_of(self.leaf)


class LeafBook:
    """Reads and writes the node's leaves; every change is on disk before the method returns."""

    def __init__(self, state: Path) -> None:
        self._index, self._manifests, self._summaries = (
            state / "leaves.json",
            state / "manifests",
            state / "leaves",
        )
        self._leaves: dict[LeafId, OwnLeaf] = {}
        self.tree = OwnTree(self._save)
        self.contributions = KeptContributions(state / "contributions")
        self.epoch = 0
        if self._index.exists():
            self._load()

    def leaves(self) -> list[OwnLeaf]:
        """Return the leaves whose experts answer, by number; not those that were split or are retired."""
        return [leaf for leaf in self.everything() if self.tree.place(leaf.leaf).standing == "leaf"]

    def branches(self) -> list[OwnLeaf]:
        """Return the leaves that were split, by number."""
        return [leaf for leaf in self.everything() if self.tree.place(leaf.leaf).standing == "branch"]

    def everything(self) -> list[OwnLeaf]:
        """Return all leaves that there ever were, by number."""
        return sorted(self._leaves.values(), key=lambda leaf: leaf.number)

    def leaf(self, leaf: LeafId) -> OwnLeaf | None:
        """Return one leaf, None if this node never had it."""
        return self._leaves.get(leaf)

    @property
    def first_free(self) -> int:
        """The smallest number above every leaf's: ids are never used again."""
        return max(self.tree.last_number, *(leaf.number for leaf in self._leaves.values()), 0) + 1

    def reserve(self, count: int, after: int = 0) -> int:
        """Set `count` numbers aside, all above `after`, and return the first; nobody else gets them."""
        first = max(self.first_free, after + 1)
        self.tree.reserve(first + count - 1)
        return first

    def summary(self, leaf: LeafId) -> Path:
        """Return where the leaf's summary lies."""
        return self._summaries / f"{leaf}.npz"

    def sums(self, leaf: LeafId) -> Path:
        """Return where the leaf's sums lie, if it has any."""
        return self._summaries / f"{leaf}.sums.npz"

    def shard(self, leaf: LeafId) -> Path:
        """Return where it is kept where the leaf's samples are (`node.shard_source`), if it is known."""
        return self._summaries / f"{leaf}.shard.npz"

    def memory(self, leaf: LeafId) -> Path:
        """Return where what the leaf's next update needs lies, if it has any."""
        return self._summaries / f"{leaf}.memory"

    def split_gate(self, leaf: LeafId) -> Path:
        """Return where the learned gate of a leaf that was split lies, if it has one."""
        return self._summaries / f"{leaf}.split.npy"

    def manifest_file(self, digest: Digest) -> Path:
        """Return where a signed manifest of this node lies."""
        return self._manifests / f"{digest}.json"

    def signed(self, digest: Digest) -> Statement[Manifest]:
        """Return a manifest that this node signed."""
        path = self.manifest_file(digest)
        if not path.exists():
            raise VerificationError(
                f"manifest {digest[:12]}",
                found="no file",
                expected=str(path),
                remedy="train again to publish a new version",
            )
        return read_statement(path.read_bytes(), Manifest)

    def published_envelopes(self) -> tuple[bytes, ...]:
        """Return the signed manifests of the heads that the registry accepted: what Hello announces. Also of
        leaves that were split or are retired: older gates, and a rollback, need them."""
        heads = [leaf.head for leaf in self.everything() if leaf.head]
        return tuple(self.manifest_file(Digest(head)).read_bytes() for head in heads)

    def published(self) -> tuple[OwnLeaf, ...]:
        """Return the leaves whose experts have an accepted head."""
        return tuple(leaf for leaf in self.leaves() if leaf.head)

    def note_signed(
        self,
        statement: Statement[Manifest],
        *,
        class_counts: Mapping[str, int],
        import_paths: tuple[str, ...],
        summary: Path,
        sums: Path | None = None,
        shard: Path | None = None,
        memory: Path | None = None,
    ) -> None:
        """Keep a new version before it goes out, with the files of its summary and of its sums, shard and
        memory (None: it has none). Noting a known version again changes nothing."""
        manifest = statement.value
        self._keep_envelope(statement)
        known = self._leaves.get(manifest.leaf)
        if known is not None and known.version >= manifest.version:
            return
        self._summaries.mkdir(parents=True, exist_ok=True)
        link_durably(summary, self.summary(manifest.leaf))
        for found, kept in (
            (sums, self.sums(manifest.leaf)),
            (shard, self.shard(manifest.leaf)),
            (memory, self.memory(manifest.leaf)),
        ):
            if found is None:
                kept.unlink(missing_ok=True)
            else:
                link_durably(found, kept)
        self._leaves[manifest.leaf] = OwnLeaf(
            leaf=manifest.leaf,
            version=manifest.version,
            manifest=statement.digest,
            head_version=known.head_version if known else 0,
            head=known.head if known else "",
            class_counts=dict(class_counts),
            import_paths=import_paths,
        )
        self._save()

    def note_refined(self, statement: Statement[Manifest]) -> None:
        """Keep a new version of a known leaf that stands for the same samples as before (another correction,
        or weights trained further), before it goes out."""
        self._keep_envelope(statement)
        manifest = statement.value
        known = self._leaves[manifest.leaf]
        if known.version >= manifest.version:
            return
        self._leaves[manifest.leaf] = replace(known, version=manifest.version, manifest=statement.digest)
        self._save()

    def note_accepted(self, statement: Statement[Manifest], head: Head) -> None:
        """Keep that the registry made this version the head."""
        manifest = statement.value
        self._keep_envelope(statement)
        known = self._leaves[manifest.leaf]
        if head.version <= known.head_version and known.head == head.manifest:
            return
        newer = replace(known, head_version=head.version, head=str(head.manifest))
        if head.version > known.version:
            newer = replace(newer, version=head.version, manifest=head.manifest)
        self._leaves[manifest.leaf] = newer
        self._save()

    def note_epoch(self, epoch: int) -> None:
        """Keep the epoch of the newest contribution that this node signed."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._save()

    def _keep_envelope(self, statement: Statement[Manifest]) -> None:
        path = self.manifest_file(statement.digest)
        if not path.exists():
            write_durably(path, statement.envelope)

    def _save(self) -> None:
        kept: dict[str, Any] = {
            "schema": _SCHEMA,
            "epoch": self.epoch,
            "leaves": [asdict(leaf) for leaf in self.everything()],
            "tree": self.tree.fields(),
        }
        write_json(self._index, kept)

    def _load(self) -> None:
        try:
            kept = json.loads(self._index.read_bytes())
            for fields in kept["leaves"]:
                leaf = OwnLeaf(**{**fields, "import_paths": tuple(fields["import_paths"])})
                self._leaves[leaf.leaf] = leaf
            self.epoch = int(kept["epoch"])
            self.tree.load(kept.get("tree", {}))
        except (ValueError, TypeError, KeyError) as error:
            raise VerificationError(
                str(self._index),
                found=f"unreadable content ({error})",
                expected=f"an index of schema {_SCHEMA}",
                remedy="restore the file from a copy; the signed manifests beside it are whole",
            ) from error


def import_paths_of(state: Path) -> tuple[str, ...]:
    """Return every folder that some leaf's own code was found in, from the index on disk."""
    index = state / "leaves.json"
    if not index.exists():
        return ()
    leaves = json.loads(index.read_bytes())["leaves"]
    return tuple(dict.fromkeys(str(path) for leaf in leaves for path in leaf["import_paths"]))
