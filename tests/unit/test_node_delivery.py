"""The courier delivers in order, tries again what cannot be reached, and sets aside what is refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from node.delivery import Courier
from node.outbox import Intent, Outbox
from node.publishing import Publisher
from swarm.digests import digest_of
from swarm.domain.contributions import Contribution, LeafContribution
from swarm.domain.errors import (
    ExhaustedError,
    HarmfulContributionError,
    NotReadyError,
    StaleFenceError,
    SwarmError,
    TooManyExpertsError,
    UnreachableError,
)
from swarm.domain.ids import ExpertId, LeafId, NodeId, SwarmId
from swarm.domain.membership import ContributionOutcome, Head
from swarm.domain.tensors import TensorEntry
from swarm.trust.signing import Signer
from swarm.trust.statements import sign_statement


class ScriptedPublisher(Publisher):
    """Fails as the script says, one error per attempt, then succeeds."""

    def __init__(self, *errors: SwarmError) -> None:
        self.errors = list(errors)
        self.attempts: list[tuple[str, int]] = []

    async def publish(self, intent: Intent, fence: int) -> Head:
        self._attempt(intent, fence)
        return Head(expert=ExpertId("a.e1"), version=1, manifest=digest_of(b""))

    async def contribute(self, intent: Intent, fence: int) -> ContributionOutcome:
        self._attempt(intent, fence)
        return ContributionOutcome(state="activated", gate_version=4, reason="")

    def _attempt(self, intent: Intent, fence: int) -> None:
        self.attempts.append((intent.key, fence))
        if self.errors:
            raise self.errors.pop(0)


@asynccontextmanager
async def running(
    outbox: Outbox,
    publisher: Publisher,
    fence: Callable[[], int] = lambda: 7,
    make_room: Callable[[int], Awaitable[object]] | None = None,
    on_active: Callable[[bytes], None] = lambda envelope: None,
    longest_delay_s: float = 0.05,
) -> AsyncIterator[Courier]:
    courier = Courier(
        outbox,
        publisher,
        fence=fence,
        make_room=make_room,
        on_active=on_active,
        first_delay_s=0.01,
        longest_delay_s=longest_delay_s,
        longest_unreachable_s=0.02,
        seed=1,
    )
    task = asyncio.create_task(courier.run())
    try:
        yield courier
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_outage_delays_a_delivery_and_nothing_else(tmp_path: Path) -> None:
    outbox, publisher = (
        Outbox(tmp_path),
        ScriptedPublisher(UnreachableError("registry"), UnreachableError("registry")),
    )
    first = outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    second = outbox.put("contribute", key="2", subject="epoch 1", envelope=b"{}")
    async with running(outbox, publisher) as courier:
        assert (await courier.outcome(first, 5)).state == "delivered"  # type: ignore[union-attr]
        assert (await courier.outcome(second, 5)).gate_version == 4  # type: ignore[union-attr]
    assert [key for key, _ in publisher.attempts] == ["1", "1", "1", "2"]
    assert len(outbox) == 0


async def test_a_long_outage_does_not_make_the_courier_slow_to_notice_its_end(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    publisher = ScriptedPublisher(*(UnreachableError("registry") for _ in range(25)))
    intent = outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    async with running(outbox, publisher, longest_delay_s=3600) as courier:
        assert (await courier.outcome(intent, 60)).state == "delivered"  # type: ignore[union-attr]


async def test_a_refusal_is_set_aside_with_its_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    publisher = ScriptedPublisher(HarmfulContributionError("contribution", found="a loss"))
    first = outbox.put("contribute", key="1", subject="epoch 1", envelope=b"{}")
    second = outbox.put("publish", key="2", subject="a.e1@1", envelope=b"{}")
    async with running(outbox, publisher) as courier:
        refused = await courier.outcome(first, 5)
        assert refused is not None and isinstance(refused.error, HarmfulContributionError)
        assert (await courier.outcome(second, 5)).state == "delivered"  # type: ignore[union-attr]
    assert outbox.refused() == [("epoch 1", "contribution: found a loss")]


async def test_a_stale_fence_waits_for_the_next_lease(tmp_path: Path) -> None:
    outbox, publisher = Outbox(tmp_path), ScriptedPublisher(StaleFenceError("lease"))
    intent = outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    fences = iter([7, 8])
    async with running(outbox, publisher, lambda: next(fences)) as courier:
        assert (await courier.outcome(intent, 5)).state == "delivered"  # type: ignore[union-attr]
    assert [fence for _, fence in publisher.attempts] == [7, 8]


async def test_without_a_lease_nothing_is_sent_and_the_waiter_is_told(tmp_path: Path) -> None:
    outbox, publisher = Outbox(tmp_path), ScriptedPublisher()
    intent = outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    async with running(outbox, publisher, lambda: 0) as courier:
        assert await courier.outcome(intent, 0.1) is None
        assert "no lease" in courier.trouble and not courier.held_up_by
    assert publisher.attempts == [] and len(outbox) == 1


async def test_a_new_process_delivers_what_the_old_one_could_not(tmp_path: Path) -> None:
    Outbox(tmp_path).put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    outbox, publisher = Outbox(tmp_path), ScriptedPublisher()
    async with running(outbox, publisher) as courier:
        await courier.outcome(outbox.pending()[0], 5)
    assert [key for key, _ in publisher.attempts] == ["1"]


class PickyPublisher(ScriptedPublisher):
    """Never takes what has one of these keys."""

    def __init__(self, never: dict[str, SwarmError]) -> None:
        super().__init__()
        self.never = never

    def _attempt(self, intent: Intent, fence: int) -> None:
        super()._attempt(intent, fence)
        if intent.key in self.never:
            raise self.never[intent.key]


def contribution(*experts: str) -> bytes:
    entry = TensorEntry(name="a", dtype="float32", shape=(1,), blob=digest_of(b"a"), offset=0, size_bytes=4)
    leaves = tuple(
        LeafContribution(
            leaf=LeafId(expert.replace(".e", ".l")),
            expert=ExpertId(expert),
            class_counts={"yew": 20},
            prototypes=entry,
            prototype_counts=entry,
            radii=entry,
        )
        for expert in experts
    )
    value = Contribution(
        swarm=SwarmId("plants"),
        owner=NodeId("a"),
        epoch=1,
        trunk=digest_of(b"t"),
        leaves=leaves,
        created_at=1.0,
    )
    return sign_statement(value, Signer.generate())


async def test_what_its_recipient_cannot_take_now_holds_up_only_what_needs_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    publisher = PickyPublisher({"1": ExhaustedError("disk of the registry"), "5": NotReadyError("judges")})
    for key, subject in (("1", "a.e1@2"), ("2", "a.e1@3"), ("3", "a.e2@1")):
        outbox.put("publish", key=key, subject=subject, envelope=b"{}")
    for number, experts in enumerate((["a.e1", "a.e2"], ["a.e2"], ["a.e2"]), 4):
        outbox.put(
            "contribute", key=str(number), subject=f"contribution, epoch {number}",
            envelope=contribution(*experts),
        )  # fmt: skip
    last = outbox.pending()[-1]
    async with running(outbox, publisher) as courier:
        assert (await courier.outcome(last, 5)).state == "activated"  # type: ignore[union-attr]
        while "disk" not in courier.trouble:
            await asyncio.sleep(0.01)
        assert courier.held_up_by == "disk of the registry"
    assert [intent.key for intent in outbox.pending()] == ["1", "2", "4"]
    assert "2" not in {key for key, _ in publisher.attempts}


async def test_room_is_made_for_one_expert_too_many_and_it_arrives(tmp_path: Path) -> None:
    outbox, publisher = Outbox(tmp_path), ScriptedPublisher(TooManyExpertsError("experts of a"))
    intent, asked = outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}"), []

    async def make_room(wanted: int) -> None:
        asked.append(wanted)

    async with running(outbox, publisher, make_room=make_room) as courier:
        assert (await courier.outcome(intent, 5)).state == "delivered"  # type: ignore[union-attr]
    assert asked == [1] and len(publisher.attempts) == 2


async def test_one_expert_too_many_without_room_is_set_aside_by_name_and_the_rest_goes_on(
    tmp_path: Path,
) -> None:
    outbox = Outbox(tmp_path)
    publisher = PickyPublisher({"1": TooManyExpertsError("experts of a", found="16 and one more")})
    first = outbox.put("publish", key="1", subject="a.e17@1", envelope=b"{}")
    second = outbox.put("publish", key="2", subject="a.e1@2", envelope=b"{}")

    async def make_room(wanted: int) -> None:
        raise TooManyExpertsError("experts of a", found="16, none of which may be withdrawn")

    async with running(outbox, publisher, make_room=make_room) as courier:
        refused = await courier.outcome(first, 5)
        assert refused is not None and isinstance(refused.error, TooManyExpertsError)
        assert (await courier.outcome(second, 5)).state == "delivered"  # type: ignore[union-attr]
    assert outbox.refused() == [("a.e17@1", "experts of a: found 16, none of which may be withdrawn")]


class ForgetfulPublisher(ScriptedPublisher):
    """The coordinator died after the gate came and before it said so: asked again, it has it already."""

    async def contribute(self, intent: Intent, fence: int) -> ContributionOutcome:
        self._attempt(intent, fence)
        return ContributionOutcome(state="duplicate", gate_version=4, reason="in the gate already")


async def test_what_the_gate_has_already_is_in_it_and_what_a_newer_one_replaced_is_not(
    tmp_path: Path,
) -> None:
    outbox, publisher = Outbox(tmp_path), ForgetfulPublisher()
    first, second = (
        outbox.put("contribute", key=key, subject=f"contribution, epoch {key}", envelope=key.encode())
        for key in ("1", "2")
    )
    active: list[bytes] = []
    async with running(outbox, publisher, on_active=active.append) as courier:
        replaced, known = await courier.outcome(first, 5), await courier.outcome(second, 5)
    assert replaced is not None and (replaced.state, replaced.is_in_the_gate) == ("superseded", False)
    assert known is not None and (known.state, known.is_in_the_gate) == ("duplicate", True)
    assert active == [b"2"] and [key for key, _ in publisher.attempts] == ["2"]


async def test_a_disk_that_takes_no_refusal_does_not_end_the_courier(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    (tmp_path / "refused").write_bytes(b"no folder")
    refusal = HarmfulContributionError("contribution", found="a loss")
    publisher = ScriptedPublisher(refusal, refusal, refusal)
    intent = outbox.put("contribute", key="1", subject="epoch 1", envelope=b"{}")
    async with running(outbox, publisher) as courier:
        assert await courier.outcome(intent, 0.05) is None
        assert "refused" in courier.trouble
        (tmp_path / "refused").unlink()
        assert (await courier.outcome(intent, 30)) is not None
    assert len(outbox) == 0
