"""An answer is taken for the request that it was signed for, and for no other."""

from dataclasses import replace

import numpy as np
import pytest

from swarm.answering.vouching import check_request
from swarm.domain.errors import VerificationError
from swarm.domain.inference import Answer, Query
from swarm.domain.replay import GivenAnswer
from swarm.trust.codec import to_json
from swarm.trust.signing import Signer
from swarm.trust.statements import open_statement, sign_statement
from tests.support.trust import given_answer

SIGNER = Signer.from_hex("11" * 32)
QUERY = Query(inputs=np.zeros((1, 2), np.float32), replayable=True, request_id="this one")


def answered(given: GivenAnswer | None) -> Answer:
    return Answer(
        class_names=("a",),
        probabilities=np.ones((1, 1), np.float32),
        gate_version=1,
        degraded=(False,),
        signed=b"" if given is None else sign_statement(given, SIGNER),
    )


@pytest.mark.parametrize(
    ("request_id", "found"), [("", "for no request by name"), ("another", "for request 'another'")]
)
def test_an_answer_that_is_signed_for_another_request_is_not_saved(request_id: str, found: str) -> None:
    with pytest.raises(VerificationError, match=found) as caught:
        check_request(answered(replace(given_answer(), request_id=request_id)), QUERY)
    assert "ask again" in caught.value.remedy and "upgrade" in caught.value.remedy


def test_an_answer_that_is_signed_for_its_request_or_by_nobody_is_taken() -> None:
    check_request(answered(replace(given_answer(), request_id="this one")), QUERY)
    check_request(answered(None), QUERY)


def test_an_answer_without_a_requests_name_is_signed_as_before_there_were_any() -> None:
    plain, named = given_answer(), replace(given_answer(), request_id="this one")
    assert b"request_id" not in to_json(plain) and b"request_id" in to_json(named)
    for value in (plain, named):
        assert open_statement(sign_statement(value, SIGNER), GivenAnswer, SIGNER.public_hex).value == value
