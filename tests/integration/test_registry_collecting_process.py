"""Collection and quotas over the wire: a registry process, mutual TLS, a real Redis, real files."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swarm.cli.collecting import describe
from swarm.domain.errors import NotAuthorisedError
from swarm.domain.ids import Digest
from swarm.domain.manifests import Manifest
from swarm.modules import pack_module
from swarm.rpc.clients import RegistryClient
from swarm.trust.statements import sign_statement
from tests.linearizability.cluster import Cluster
from tests.support.trust import manifest, tombstone


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    await made.start()
    yield made
    await made.stop()


def version(number: int) -> tuple[Manifest, dict[Digest, bytes]]:
    module, blobs = pack_module("head", {"weight": np.full(20_000, number, np.float32)})
    return replace(manifest("ada", number), modules=(module,), parents=()), blobs


async def publish(cluster: Cluster, client: RegistryClient, number: int, fence: int) -> dict[Digest, bytes]:
    made, blobs = version(number)
    for blob in await client.missing(list(blobs)):
        await client.publish_blob(blob, blobs[blob])
    await client.commit(sign_statement(made, cluster.owners["ada"].required_signer()), fence)
    return blobs


async def test_an_operator_collects_what_was_withdrawn_and_claims_outlive_a_killed_registry(
    cluster: Cluster,
) -> None:
    client = cluster.client("ada")
    fence = (await cluster.store.grant_lease(cluster.owners["ada"].id, 600)).fence
    kept = await publish(cluster, client, 1, fence)
    gone = await publish(cluster, client, 2, fence)
    stone = sign_statement(tombstone("ada.e2"), cluster.owners["ada"].required_signer())
    assert await client.missing(list(gone)) == []  # a publish in flight that has them
    await client.withdraw(stone, fence)
    with pytest.raises(NotAuthorisedError):
        await client.collect(dry_run=True)
    await client.close()

    assert (cluster.folder / "registry" / "claims.jsonl").exists()  # wherever the blobs are
    await cluster.hurt("kill registry")
    operator = cluster.client("operator")
    told = await operator.collect(dry_run=True)
    assert not told.gone and "claimed by a publish in flight" in describe(told, dry_run=True)

    client = cluster.client("ada")
    third = replace(version(2)[0], expert="ada.e3", leaf="ada.l3")  # type: ignore[arg-type]
    await client.commit(sign_statement(third, cluster.owners["ada"].required_signer()), fence)
    assert [each.owner for each in (await client.health()).owners] == ["ada"]
    stone = sign_statement(tombstone("ada.e3"), cluster.owners["ada"].required_signer())
    await client.withdraw(stone, fence)
    told = await operator.collect(dry_run=True)
    assert {verdict.blob for verdict in told.gone} == set(gone)
    assert await client.missing(list(gone)) == [] and await client.missing(list(kept)) == []
    await client.close()
    await operator.close()


async def test_collecting_takes_what_nobody_needs_and_leaves_every_other_byte(
    cluster: Cluster,
) -> None:
    client = cluster.client("ada")
    fence = (await cluster.store.grant_lease(cluster.owners["ada"].id, 600)).fence
    needed = [await publish(cluster, client, number, fence) for number in (1, 2, 3)]
    gone = [await publish(cluster, client, number, fence) for number in (4, 5, 6)]
    for number in (4, 5, 6):
        stone = sign_statement(tombstone(f"ada.e{number}"), cluster.owners["ada"].required_signer())
        await client.withdraw(stone, fence)
    await client.close()
    operator = cluster.client("operator")
    found = await operator.collect(dry_run=False)
    assert {verdict.blob for verdict in found.gone} == {blob for blobs in gone for blob in blobs}
    assert not (await operator.collect(dry_run=False)).gone
    for blobs in needed:
        for blob, data in blobs.items():
            assert await operator.fetch_blob(blob) == data
    await operator.close()
