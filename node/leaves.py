"""The node's own leaves across restarts: ids, versions, signed manifests, summaries, contribution epoch, and
how they grew: which were split or are no longer leaves, and by which proposal.

`state/leaves.json` is the index; `state/manifests/<digest>.json` keeps every manifest that this node signed,
where the expert server finds them, and `state/accepted/<digest>.json` those that the registry accepted, for
good; `state/leaves/<leaf>.npz` keeps each leaf's summary for the gate, `<leaf>.sums.npz` its sums,
`<leaf>.shard.npz` where its samples are, `<leaf>.memory` what its next update needs and, of one that was
split with a learned gate, `<leaf>.split.npy`. Of a leaf that gave samples to another one other files may
count (`node.growth.reshaping`).
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from node.durable import link_durably, write_durably, write_json
from node.growth.changes import TreeChange
from node.growth.jobs import ReshapedLeaf
from node.growth.kept import KeptContributions
from node.growth.own_tree import OwnTree
from node.growth.reshaping import LeafSets, Part, is_same_file, sets_of_job
from swarm.domain.errors import SwarmError, VerificationError
from swarm.domain.ids import Digest, ExpertId, LeafId, expert_of, number_of
from swarm.domain.manifests import Manifest
from swarm.domain.membership import Head
from swarm.fault_points import reached
from swarm.trust.statements import Statement, read_statement

_SCHEMA = "swarm.leaves/1"
_UNDOABLE = 4
"""What so many of the newest moves of samples need to be undone is kept."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLeaf:
    """One leaf. `version` and `manifest` name the newest version that this node signed; `head_version` and
    `head` the newest that the registry accepted (0 and empty: none yet).

    `class_counts` is of the data that the leaf was trained on last; `import_paths` find its net's code.
    `files` names the set of its summary, sums and shard that counts (empty: what training left).
    """

    leaf: LeafId
    version: int
    manifest: Digest
    head_version: int = 0
    head: str = ""
    class_counts: Mapping[str, int]
    import_paths: tuple[str, ...] = ()
    files: str = ""

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
        self._accepted = state / "accepted"
        self._leaves: dict[LeafId, OwnLeaf] = {}
        self._sets = LeafSets(self._summaries)
        self.tree = OwnTree(self._save, self._reshape)
        self.contributions = KeptContributions(state / "contributions", state / "growth")
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
        return self._file(leaf, "summary")

    def sums(self, leaf: LeafId) -> Path:
        """Return where the leaf's sums lie, if it has any."""
        return self._file(leaf, "sums")

    def shard(self, leaf: LeafId) -> Path:
        """Return where it is kept where the leaf's samples are (`node.shard_source`), if it is known."""
        return self._file(leaf, "shard")

    def memory(self, leaf: LeafId) -> Path:
        """Return where what the leaf's next update needs lies, if it has any."""
        return self._summaries / f"{leaf}.memory"

    def split_gate(self, leaf: LeafId) -> Path:
        """Return where the learned gate of a leaf that was split lies, if it has one."""
        return self._summaries / f"{leaf}.split.npy"

    @property
    def manifests(self) -> Path:
        """The folder of every manifest that this node signed and did not forget."""
        return self._manifests

    def manifest_file(self, digest: Digest) -> Path:
        """Return where a signed manifest of this node lies."""
        return self._manifests / f"{digest}.json"

    def signed(self, digest: Digest) -> Statement[Manifest]:
        """Return a manifest that this node signed. Where its file is damaged or gone, it is made again of the
        one that was kept when the registry accepted it; VerificationError where there is none."""
        path = self.manifest_file(digest)
        statement = _statement_in(path, digest)
        if statement is not None:
            return statement
        statement = _statement_in(self._accepted_file(digest), digest)
        if statement is None:
            raise VerificationError(
                f"manifest {digest[:12]}",
                found="a damaged file" if path.exists() else "no file",
                expected=str(path),
                remedy="train again to publish a new version",
            )
        with suppress(OSError):
            write_durably(path, statement.envelope)
        return statement

    def published_envelopes(self) -> tuple[bytes, ...]:
        """Return the signed manifests of the heads that the registry accepted: what Hello announces. Also of
        leaves that were split or are retired: older gates, and a rollback, need them. A damaged one is left
        out."""
        return tuple(each.envelope for each in self._whole(self.signed, self._heads()))

    def accepted_envelopes(self) -> tuple[bytes, ...]:
        """Return the signed manifests of all versions that the registry accepted, oldest first: what a
        registry that lost its store is given back. Of a node older than this record the heads alone. A
        damaged one is left out."""
        kept = {Digest(path.stem) for path in self._accepted.glob("*.json")}
        statements = self._whole(self._kept, sorted(kept.union(self._heads())))
        statements.sort(key=lambda each: (number_of(each.value.leaf), each.value.version))
        return tuple(each.envelope for each in statements)

    def nets(self) -> set[str]:
        """Return the factories of the newest versions' nets, as far as their manifests can be read."""
        newest = [leaf.manifest for leaf in self.everything()]
        return {each.value.net.factory for each in self._whole(self.signed, newest)}

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
        moved_out: Collection[str] | None = None,
    ) -> None:
        """Keep a new version before it goes out, with the files of its summary and of its sums, shard and
        memory (None: it has none). Noting a known version again changes nothing.

        `moved_out`: the proposals that had moved samples out of what the version adds to; where others have
        by now, its files are brought to that.
        """
        manifest = statement.value
        self._keep_envelope(statement)
        known = self._leaves.get(manifest.leaf)
        if known is not None and known.version >= manifest.version:
            return
        self._summaries.mkdir(parents=True, exist_ok=True)
        link_durably(summary, self._sets.path(manifest.leaf, "", "summary"))
        for found, kept in (
            (sums, self._sets.path(manifest.leaf, "", "sums")),
            (shard, self._sets.path(manifest.leaf, "", "shard")),
            (memory, self.memory(manifest.leaf)),
        ):
            if found is None:
                kept.unlink(missing_ok=True)
            else:
                link_durably(found, kept)
        leaf = OwnLeaf(
            leaf=manifest.leaf,
            version=manifest.version,
            manifest=statement.digest,
            head_version=known.head_version if known else 0,
            head=known.head if known else "",
            class_counts=dict(class_counts),
            import_paths=import_paths,
        )
        self._leaves[manifest.leaf] = self._caught_up(leaf, moved_out)
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
        known = self._leaves.get(manifest.leaf)
        accepted = self._accepted_file(statement.digest)
        if not accepted.exists():
            write_durably(accepted, statement.envelope)
        reached("node.publish.kept")
        if known is None:  # forgotten while this was on its way
            return
        self._keep_envelope(statement)
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

    def keep_reshaped(self, proposal: str, reshaped: Sequence[ReshapedLeaf], folder: Path) -> None:
        """Keep what a task left in its folder of leaves whose samples are about to move. Safe to repeat."""
        for one in reshaped:
            leaf, number = one.leaf, number_of(one.leaf)
            before, counts = sets_of_job(folder, number, "before"), one.before
            if is_same_file(self.shard(leaf), before["shard"]):
                # Put back, it is bit for bit what the leaf has: the task wrote its summary and sums anew.
                before = {part: self._file(leaf, part) for part in before}
                counts = self._leaves[leaf].class_counts
            self._sets.keep(leaf, f"{proposal}-before", before, counts)
            self._sets.keep(leaf, f"{proposal}-after", sets_of_job(folder, number, "leaf"), one.after)
            self._sets.keep(leaf, f"{proposal}-moved", sets_of_job(folder, number, "moved"), one.moved)
        if reshaped:
            used = [(leaf.leaf, leaf.files) for leaf in self._leaves.values()]
            for old in [each for each in self.tree.reshaping() if each != proposal][: 1 - _UNDOABLE]:
                self._sets.forget(old, used)

    def forget(self, leaf: LeafId, versions: Collection[Digest]) -> None:
        """Remove a retired leaf that was withdrawn, its files and these versions; its number stays taken."""
        self._leaves.pop(leaf, None)
        used = [(each.leaf, each.files) for each in self._leaves.values()]
        for proposal in self.tree.forget(leaf):
            self._sets.forget(proposal, used)
        for path in (*self._summaries.glob(f"{leaf}.*"), *map(self.manifest_file, versions)):
            path.unlink(missing_ok=True)

    def _reshape(self, change: TreeChange, back: bool) -> None:
        for leaf in change.reshaped:
            self._leaves[leaf] = self._moved(self._leaves[leaf], change.proposal, back=back)

    def _caught_up(self, leaf: OwnLeaf, moved_out: Collection[str] | None) -> OwnLeaf:
        if moved_out is None:
            return leaf
        now = self.tree.moved_out(leaf.leaf)
        for proposal in (each for each in now if each not in moved_out):
            leaf = self._moved(leaf, proposal, back=False)
        for proposal in (each for each in moved_out if each not in now):
            leaf = self._moved(leaf, proposal, back=True)
        return leaf

    def _moved(self, known: OwnLeaf, proposal: str, *, back: bool) -> OwnLeaf:
        """Return a leaf after samples of it moved by a proposal, or (`back`) moved back."""
        leaf, sets = known.leaf, self._sets
        was, wanted = (
            f"{proposal}-{each}" for each in (("after", "before") if back else ("before", "after"))
        )
        if not all(sets.has(leaf, name) for name in (was, wanted)):
            _log.warning("leaf.not_reshaped", leaf=leaf, proposal=proposal, because="its files are not kept")
            return known
        if sets.is_of_the_same(leaf, known.files, was):
            return replace(known, files=wanted, class_counts=sets.counts(leaf, wanted))
        name = f"{proposal}-{'back' if back else 'again'}-{known.version}"
        counts = sets.carry_over(leaf, (known.files, known.class_counts), proposal, name, back=back)
        if counts is None:
            _log.warning("leaf.not_reshaped", leaf=leaf, proposal=proposal, because="it was trained anew")
            return known
        return replace(known, files=name, class_counts=counts)

    def _file(self, leaf: LeafId, part: Part) -> Path:
        known = self._leaves.get(leaf)
        return self._sets.path(leaf, known.files if known is not None else "", part)

    def _heads(self) -> list[Digest]:
        return [Digest(leaf.head) for leaf in self.everything() if leaf.head]

    def _accepted_file(self, digest: Digest) -> Path:
        return self._accepted / f"{digest}.json"

    def _kept(self, digest: Digest) -> Statement[Manifest]:
        return _statement_in(self._accepted_file(digest), digest) or self.signed(digest)

    def _whole(
        self, read: Callable[[Digest], Statement[Manifest]], digests: Iterable[Digest]
    ) -> list[Statement[Manifest]]:
        """Return what can be read; what is damaged keeps none of the others back."""
        found = []
        for digest in digests:
            try:
                found.append(read(digest))
            except VerificationError as error:
                _log.error("manifest.damaged", manifest=digest, because=str(error))
        return found

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


def _statement_in(path: Path, digest: Digest) -> Statement[Manifest] | None:
    """Return the manifest of this digest in a file, None where that is damaged or there is none."""
    try:
        statement = read_statement(path.read_bytes(), Manifest)
    except (FileNotFoundError, SwarmError):
        return None
    return statement if statement.digest == digest else None


def import_paths_of(state: Path) -> tuple[str, ...]:
    """Return every folder that some leaf's own code was found in, from the index on disk."""
    index = state / "leaves.json"
    if not index.exists():
        return ()
    leaves = json.loads(index.read_bytes())["leaves"]
    return tuple(dict.fromkeys(str(path) for leaf in leaves for path in leaf["import_paths"]))
