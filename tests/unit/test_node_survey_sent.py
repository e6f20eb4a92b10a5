"""What a survey that leaves the node says of new samples, and how it is listed."""

from pathlib import Path
from typing import Any, cast

from node.expert_service import ExpertService
from node.outbound import OutboundLog
from swarm.domain.growth import LeafSurvey, Survey
from swarm.domain.ids import LeafId
from swarm.rpc.convert.growth import survey_to_pb


class Opened:
    digest = "ab" * 32
    value = None


class Keyring:
    def open(self, envelope: bytes, kind: type) -> Opened:
        return Opened()


class Evaluator:
    async def survey(self, gate: Opened, specification: object) -> Survey:
        leaf = LeafSurvey(leaf=LeafId("rose.l1"), samples=40, nll_sum=12.5, correct=30, novel=2)
        return Survey(gate_version=7, leaves=(leaf,))


async def surveyed(log: OutboundLog, **more: Any) -> Survey:
    service = ExpertService(
        store=cast(Any, None),
        specification=cast(Any, None),
        keyring=cast(Any, Keyring()),
        evaluator=cast(Any, Evaluator()),
        outbound=log,
        **more,
    )
    return await service.survey(b"gate", b"specification")


async def test_a_survey_tells_how_many_new_samples_there_are_and_is_listed_as_it_was_sent(
    tmp_path: Path,
) -> None:
    log = OutboundLog(tmp_path / "outbound.jsonl")
    found = await surveyed(log, fresh=lambda: (500, 20))
    assert (found.fresh, found.fresh_novel) == (500, 20)
    (line,) = log.read()
    assert (line.what, line.digest) == ("survey sums", Opened.digest)
    assert line.size_bytes == survey_to_pb(found).ByteSize()


async def test_a_node_without_a_stream_has_nothing_new(tmp_path: Path) -> None:
    found = await surveyed(OutboundLog(tmp_path / "outbound.jsonl"))
    assert (found.fresh, found.fresh_novel) == (0, 0)
