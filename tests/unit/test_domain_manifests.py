"""What a manifest may say."""

import math
from dataclasses import replace

import pytest

from swarm.domain.errors import InvalidInputError
from swarm.domain.manifests import LATEST_S
from tests.support.trust import manifest


@pytest.mark.parametrize("at", [-1.0, LATEST_S + 1, 1e300, math.inf, math.nan])
def test_a_version_is_made_at_a_time_that_has_a_date(at: float) -> None:
    assert replace(manifest(), created_at=LATEST_S).created_at == LATEST_S
    with pytest.raises(InvalidInputError, match="created_at"):
        replace(manifest(), created_at=at)
