"""Answers and profiles, as the coordinator gives them: routed by the gate, or by an asker's own profile."""

import asyncio
from collections.abc import Callable

from coordinator.profiles import Profiles
from swarm.answering.active_gate import ActiveGate
from swarm.answering.feature_service import FeatureService
from swarm.answering.query_checks import (
    check_answer_size,
    check_examples,
    check_profiled,
    check_query,
    check_replayable,
)
from swarm.answering.routing import Router, with_leaves
from swarm.answering.short_work import is_small, worked
from swarm.domain.inference import Answer, Examples, Profile, Query
from swarm.domain.membership import Caller
from swarm.domain.specification import Specification


class Inference:
    """Implements `InferencePort`."""

    def __init__(
        self,
        *,
        active: Callable[[], ActiveGate | None],
        specification: Callable[[], Specification],
        features: FeatureService,
        router: Router,
        profiles: Profiles,
    ) -> None:
        self._active, self._specification = active, specification
        self._features, self._router, self._profiles = features, router, profiles

    async def predict(self, query: Query, timeout_s: float) -> Answer:
        """Return the swarm's answer to a query of 1 to MAX_QUERY_ROWS rows, fewer where classes are many.

        Raises as `Router.predict` does, NotFoundError for a profile that is not there.
        """
        if not query.profile:
            return await self._router.predict(query, timeout_s)
        await worked(is_small(query), check_query, query, self._specification())
        check_profiled(query)
        check_replayable(query)
        known = await asyncio.to_thread(self._profiles.get, query.profile, with_leaves(self._active()))
        check_answer_size(len(query.inputs), known.facts.class_names)
        features = await self._features.features(query.inputs)
        return await asyncio.to_thread(
            self._profiles.answer, known, query, features, self._features.flops_per_query
        )

    async def make_profile(self, caller: Caller, examples: Examples, timeout_s: float) -> Profile:
        """Return the profile of an asker's examples: the root over the owners whose sums agree with them.

        The same examples under the same gate give the same profile. Raises as `predict` does, NotReadyError
        where the gate has no sums, ExhaustedError where too many of the caller's wait, DeadlineError beyond
        timeout_s.
        """
        active = with_leaves(self._active())
        specification = self._specification()
        labels = await asyncio.to_thread(check_examples, examples, specification, active.value)
        features = await self._features.features(examples.inputs)
        return await self._profiles.make(caller.id, active, examples, features, labels, timeout_s)
