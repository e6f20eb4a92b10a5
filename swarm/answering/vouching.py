"""Answers that whoever gave them signs: which inputs, which figures, and what they came from."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from swarm.digests import digest_of
from swarm.domain.errors import VerificationError
from swarm.domain.ids import Digest, NodeId, SwarmId
from swarm.domain.inference import Answer, Examples, Profile, Query, Source
from swarm.domain.membership import Caller
from swarm.domain.replay import GivenAnswer
from swarm.rpc.ports import InferencePort
from swarm.trust.codec import canonical_json
from swarm.trust.signing import Signer
from swarm.trust.statements import read_statement, sign_statement

Floats = NDArray[np.floating]


def inputs_digest(inputs: NDArray[np.generic]) -> Digest:
    """Return the blake3 of a batch's dtype, shape and values."""
    little = np.ascontiguousarray(inputs)
    return digest_of(f"{little.dtype.str}{little.shape}".encode() + little.tobytes())


def figures_digest(
    *,
    class_names: Sequence[str],
    probabilities: Floats,
    confidence: Floats,
    out_of_distribution: Floats | None,
    degraded: Sequence[bool],
    unknown: Sequence[bool],
) -> Digest:
    """Return the blake3 of what an answer says of each row, as float32."""
    arrays = (probabilities, confidence, np.empty(0) if out_of_distribution is None else out_of_distribution)
    said = {
        "class_names": list(class_names),
        "degraded": list(map(bool, degraded)),
        "unknown": list(map(bool, unknown)),
        "shapes": [list(each.shape) for each in arrays],
    }
    data = (np.ascontiguousarray(each, dtype="<f4").tobytes() for each in arrays)
    return digest_of(b"\0".join([canonical_json(said), *data]))


def route_digest(
    *,
    gate_version: int,
    combination: str,
    calibration: float,
    sources: Sequence[Sequence[Mapping[str, object]]],
    missing_experts: Sequence[str],
    gate_entropy: Sequence[float],
) -> Digest:
    """Return the blake3 of what an answer says of where it comes from, its sources as JSON has them."""
    said = {
        "gate_version": int(gate_version),
        "combination": combination,
        "calibration": float(calibration),
        "sources": [list(row) for row in sources],
        "missing_experts": list(missing_experts),
        "gate_entropy": list(map(float, gate_entropy)),
    }
    return digest_of(canonical_json(said))


class SignedAnswers:
    """Implements `InferencePort`: another one, whose replayable answers are signed by `giver`.

    What somebody else has signed already, whom this one asked, stays theirs.
    """

    def __init__(
        self, port: InferencePort, giver: NodeId, swarm: SwarmId, signer: Signer, clock: Callable[[], float]
    ) -> None:
        self._port, self._giver, self._swarm, self._signer = port, giver, swarm, signer
        self._clock = clock

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the port's answer, signed where it is replayable; raises as the port does."""
        answer = await self._port.predict(query, timeout_s)
        if answer.record is None or answer.signed:
            return answer
        return await asyncio.to_thread(self._signed, answer, query)

    async def make_profile(self, caller: Caller, examples: Examples, timeout_s: float) -> Profile:
        """Return the port's profile."""
        return await self._port.make_profile(caller, examples, timeout_s)

    def _signed(self, answer: Answer, query: Query) -> Answer:
        assert answer.record is not None, "the caller looked"
        given = GivenAnswer(
            swarm=self._swarm,
            given_by=self._giver,
            given_at=self._clock(),
            inputs=inputs_digest(query.inputs),
            owners=query.owners,
            min_confidence=query.min_confidence,
            figures=figures_digest(
                class_names=answer.class_names,
                probabilities=answer.probabilities,
                confidence=answer.confidence,
                out_of_distribution=answer.out_of_distribution,
                degraded=answer.degraded,
                unknown=answer.unknown,
            ),
            route=route_digest(
                gate_version=answer.gate_version,
                combination=answer.combination,
                calibration=answer.calibration,
                sources=[[_as_json(source) for source in row] for row in answer.sources],
                missing_experts=answer.missing_experts,
                gate_entropy=answer.gate_entropy,
            ),
            record=answer.record,
            request_id=query.request_id,
        )
        return replace(answer, signed=sign_statement(given, self._signer))


def check_request(answer: Answer, query: Query) -> None:
    """Raise VerificationError where an answer is signed for another request than this query is.

    Whose signature it is, `swarm replay` verifies; nobody else's can have this request's name by chance.
    """
    if not answer.signed:
        return
    given = read_statement(answer.signed, GivenAnswer).value
    if given.request_id != query.request_id:
        found = f"for request {given.request_id[:40]!r}" if given.request_id else "for no request by name"
        raise VerificationError(
            f"answer of {given.given_by}",
            found=f"signed {found}",
            expected=f"for this one, {query.request_id[:40]!r}",
            remedy="an older answer may have been handed on: ask again; where the coordinator, or the node"
            " that answers while it is away, is older than this command, upgrade it",
        )


def _as_json(source: Source) -> dict[str, object]:
    """As it is once it was sent and saved: numbers that are no counts are floats."""
    shares = [{"owner": each.owner, "weight": float(each.weight)} for each in source.owners]
    return asdict(source) | {"weight": float(source.weight), "owners": shares}
