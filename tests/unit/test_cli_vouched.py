"""Who vouches for a saved answer: not at a time that has not come."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.cli.answer_files import SavedAnswer
from swarm.cli.vouched import voucher_of
from swarm.domain.errors import VerificationError
from swarm.domain.replay import GivenAnswer
from swarm.rpc.verified import VerifiedRegistry
from tests.support.trust import given_answer


class Opening:
    """Verifies nothing: the signature is another matter."""

    def __init__(self, given: GivenAnswer) -> None:
        self._given = given

    async def open(self, envelope: bytes, cls: type[GivenAnswer]) -> Any:
        return SimpleNamespace(value=self._given)


@pytest.mark.asyncio
@pytest.mark.parametrize("at", [-1.0, -1e300, 1e300, 4e9])
async def test_an_answer_that_is_signed_at_no_time_or_one_to_come_is_refused(at: float) -> None:
    given = replace(given_answer(), given_at=at)
    saved = SavedAnswer(answer={}, query={}, record=given.record, signed=b"signed")
    with pytest.raises(VerificationError, match="time that has come"):
        await voucher_of(cast(VerifiedRegistry, Opening(given)), saved)
