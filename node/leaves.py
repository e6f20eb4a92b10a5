"""The node's own leaves across restarts: ids, versions, signed manifests, summaries, contribution epoch.

`state/leaves.json` is the index; `state/manifests/<digest>.json` keeps every manifest that this node signed,
where the expert server finds them; `state/leaves/<leaf>.npz` keeps each leaf's summary for the gate and
`<leaf>.sums.npz` its sums.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from node.durable import link_durably, write_durably, write_json
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
        self.epoch = 0
        if self._index.exists():
            self._load()

    def leaves(self) -> list[OwnLeaf]:
        """Return all leaves by number."""
        return sorted(self._leaves.values(), key=lambda leaf: leaf.number)

    def leaf(self, leaf: LeafId) -> OwnLeaf | None:
        """Return one leaf, None if this node never had it."""
        return self._leaves.get(leaf)

    @property
    def first_free(self) -> int:
        """The smallest number above every leaf's: ids are never used again."""
        return max((leaf.number for leaf in self._leaves.values()), default=0) + 1

    def summary(self, leaf: LeafId) -> Path:
        """Return where the leaf's summary lies."""
        return self._summaries / f"{leaf}.npz"

    def sums(self, leaf: LeafId) -> Path:
        """Return where the leaf's sums lie, if it has any."""
        return self._summaries / f"{leaf}.sums.npz"

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
        """Return the signed manifests of the heads that the registry accepted: what Hello announces."""
        heads = [leaf.head for leaf in self.leaves() if leaf.head]
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
    ) -> None:
        """Keep a new version before it goes out, with the files of its summary and sums (None: it has none).
        Noting a known version again changes nothing."""
        manifest = statement.value
        self._keep_envelope(statement)
        known = self._leaves.get(manifest.leaf)
        if known is not None and known.version >= manifest.version:
            return
        self._summaries.mkdir(parents=True, exist_ok=True)
        link_durably(summary, self.summary(manifest.leaf))
        if sums is None:
            self.sums(manifest.leaf).unlink(missing_ok=True)
        else:
            link_durably(sums, self.sums(manifest.leaf))
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
        """Keep a new version of a known leaf that differs in its correction alone, before it goes out."""
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
        leaves = [asdict(leaf) for leaf in self.leaves()]
        write_json(self._index, {"schema": _SCHEMA, "epoch": self.epoch, "leaves": leaves})

    def _load(self) -> None:
        try:
            kept = json.loads(self._index.read_bytes())
            for fields in kept["leaves"]:
                leaf = OwnLeaf(**{**fields, "import_paths": tuple(fields["import_paths"])})
                self._leaves[leaf.leaf] = leaf
            self.epoch = int(kept["epoch"])
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
