"""Who vouches for a saved answer: whose signature it has, and whether it is what they signed."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.answering.vouching import figures_digest, route_digest
from swarm.cli.answer_files import SavedAnswer
from swarm.cli.clock import stamp
from swarm.domain.errors import VerificationError
from swarm.domain.replay import GivenAnswer
from swarm.rpc.verified import VerifiedRegistry

_CLOCKS_APART_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher:
    """`by` is empty where nobody signed; `otherwise` names what is not as it was signed. `request_id`: for
    which request, empty where that had no name."""

    by: str = ""
    at: float = 0.0
    otherwise: tuple[str, ...] = ()
    request_id: str = ""

    def facts(self) -> dict[str, Any]:
        signed = {"signed_by": self.by, "signed_at": self.at, "signed_for": self.request_id}
        return {**signed, "not_as_signed": list(self.otherwise)}

    def text(self) -> str:
        if not self.by:
            whose = ", or for which request" if self.otherwise else ""
            return f"signed by nobody: it says what to compute, not who gave it{whose}"
        when = f"{self.by} at {stamp(self.at)}"
        when += f" for request {self.request_id!r}" if self.request_id else ""
        if self.otherwise:
            return f"NOT what {when} signed: other {', '.join(self.otherwise)}"
        return f"signed by {when}"


async def voucher_of(registry: VerifiedRegistry, saved: SavedAnswer, request_id: str = "") -> Voucher:
    """Return who signed a saved answer. `request_id`: of the request that it is to be an answer to, empty:
    whichever the file names. VerificationError for a signature that is not its signer's, or of a
    member that was revoked, or for a time to come."""
    if not saved.signed:
        return Voucher(otherwise=("request",) if request_id else ())
    given = (await registry.open(saved.signed, GivenAnswer)).value
    if not 0 <= given.given_at <= time.time() + _CLOCKS_APART_S:
        raise VerificationError(
            f"answer of {given.given_by}",
            found=f"signed {given.given_at:.6g} s after 1970",
            expected="a time that has come by this machine's clock",
        )
    said = {
        "request": ({given.request_id}, {saved.query["request_id"], request_id or given.request_id}),
        "inputs": (given.inputs, saved.query["inputs"]["digest"]),
        "query": (
            (list(given.owners), given.min_confidence),
            (list(saved.query["owners"]), float(saved.query["min_confidence"])),
        ),
        "record": (given.record, saved.record),
        "figures": (given.figures, _figures(saved.answer)),
        "route": (given.route, _route(saved.answer)),
    }
    otherwise = tuple(name for name, (signed, found) in said.items() if signed != found)
    return Voucher(by=given.given_by, at=given.given_at, otherwise=otherwise, request_id=given.request_id)


def _figures(answer: dict[str, Any]) -> str:
    far = answer["out_of_distribution"]
    return figures_digest(
        class_names=answer["class_names"],
        probabilities=_floats(answer["probabilities"]),
        confidence=_floats(answer["confidence"]),
        out_of_distribution=None if far is None else _floats(far),
        degraded=answer["degraded"],
        unknown=answer["unknown"],
    )


def _route(answer: dict[str, Any]) -> str:
    return route_digest(
        gate_version=answer["gate_version"],
        combination=answer["combination"],
        calibration=answer["calibration"],
        sources=answer["sources"],
        missing_experts=answer["missing_experts"],
        gate_entropy=answer["gate_entropy"],
    )


def _floats(values: Any) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float64).astype(np.float32)
