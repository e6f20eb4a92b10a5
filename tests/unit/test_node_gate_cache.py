"""A node's cache does not fill with the arrays of gates that went by."""

from dataclasses import replace
from pathlib import Path

from node.gate_cache import GATES_KEPT, GateCache
from swarm.config import NodeHome
from swarm.domain.gates import GateStatement
from swarm.domain.ids import Digest
from swarm.modules.blobs import BlobFiles
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement
from tests.support.registry import expert
from tests.support.trust import gate, tensor


def with_arrays(cache: BlobFiles, version: int, data: bytes) -> GateStatement:
    return replace(gate(version), arrays=(replace(tensor("log_prior", (2,)), blob=cache.put(data)),))


def opened(folder: Path) -> tuple[NodeHome, BlobFiles]:
    home = NodeHome(folder)
    home.state.mkdir(parents=True, exist_ok=True)
    return home, BlobFiles(home.cache)


def test_arrays_of_the_newest_gates_stay_and_older_ones_go_also_over_restarts(tmp_path: Path) -> None:
    home, cache = opened(tmp_path)
    own = cache.put(b"an expert's weights")
    gates = [with_arrays(cache, version, b"%d" % version) for version in range(1, 10)]
    for each in gates:
        GateCache(home, cache).note(each)
    kept = {entry.blob for each in gates[-GATES_KEPT:] for entry in each.arrays}
    assert set(cache.digests()) == kept | {own}


def test_what_a_manifest_or_the_trunk_needs_stays(tmp_path: Path) -> None:
    home, cache = opened(tmp_path)
    made, blobs = expert()
    (home.state / "manifests").mkdir()
    (home.state / "manifests" / "a.json").write_bytes(sign_statement(made, Signer.generate()))
    trunk = cache.put(b"trunk")
    shared: list[Digest] = [cache.put(data) for data in blobs.values()]
    gates = GateCache(home, cache)
    for version, data in enumerate([*blobs.values(), b"trunk"], start=1):
        gates.note(with_arrays(cache, version, data), [trunk])
    for version in range(10, 20):
        gates.note(with_arrays(cache, version, b"%d" % version), [trunk])
    assert not cache.missing([*shared, trunk])


def test_a_damaged_note_costs_nothing_but_what_it_said(tmp_path: Path) -> None:
    home, cache = opened(tmp_path)
    (home.state / "gate-arrays.json").write_text("[1]")
    GateCache(home, cache).note(with_arrays(cache, 1, b"1"))
    assert cache.has(with_arrays(cache, 1, b"1").arrays[0].blob)
