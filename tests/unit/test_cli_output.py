"""What others wrote reaches a terminal as text only: it moves no cursor and forges no line."""

import json
from dataclasses import replace

import pytest

from swarm.cli.checks import Check, coordinator_checks
from swarm.cli.observing import describe_event, describe_status
from swarm.cli.output import advised, describe, emit, note, printable, progress, table
from swarm.domain.errors import ConflictError, NotFoundError
from swarm.domain.ids import ExpertId, NodeId
from swarm.domain.inference import SocketBytes
from swarm.domain.membership import Event, NodeView, SwarmStatus

FORGED = "idle\x1b[2J\x1b[31mHACKED\nfake    live   idle\u202e\x9b"
ESCAPED = r"idle\x1b[2J\x1b[31mHACKED\nfake    live   idle\u202e\x9b"


def status(activity: str) -> SwarmStatus:
    node = NodeView(
        id=NodeId("eve"), alive=True, revoked=False, fence=1, advertise=activity, activity=activity,
        last_seen=1.0, experts=(ExpertId("eve.e1"),), socket_bytes=SocketBytes(), software=activity,
    )  # fmt: skip
    return SwarmStatus(
        swarm="lab", specification_version=1, class_names=("a", activity), gate_version=1, nodes=(node,),
        leaves_without_owner=(activity,), redis="ok", durability="always", started_at=1.0, server_time=2.0,
        socket_bytes=SocketBytes(), certificate_days=1.0,
    )  # fmt: skip


def test_text_that_can_be_printed_stays_as_it_is() -> None:
    plain = "träumen, 学习 40 %, a\\b 'c' ∑"
    assert printable(plain) == plain
    assert table(("a",), [(plain,)]) == f"a\n{plain}"


def test_a_leaf_that_another_node_answers_for_is_no_problem_and_says_who_answers() -> None:
    away = replace(status("idle"), leaves_without_owner=("ada.l1", "bob.l0"))

    def leaves(seen: SwarmStatus) -> Check:
        return next(each for each in coordinator_checks(seen, 2.0) if each.name == "leaves")

    assert not leaves(away).ok and leaves(away).found == "ada.l1, bob.l0 without a live owner"
    half = replace(away, stand_ins={"bob.l0": NodeId("cy")})
    assert not leaves(half).ok
    assert leaves(half).found == "ada.l1 without a live owner; cy answers for bob.l0, whose owner is away"
    assert "ada.l1, bob.l0 (answered by cy)" in describe_status(half)
    whole = replace(half, leaves_without_owner=("bob.l0",))
    assert leaves(whole).ok and leaves(whole).found == "cy answers for bob.l0, whose owner is away"
    assert leaves(replace(away, leaves_without_owner=())).found == "every leaf has a live owner"


def test_a_status_shows_escapes_and_forges_no_line() -> None:
    text = describe_status(status(FORGED))
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count(ESCAPED) == 4
    assert [line.split()[0] for line in text.splitlines()] == ["swarm", "redis", "node", "eve", "leaves"]


def test_events_and_errors_of_others_keep_to_their_lines() -> None:
    event = Event(id="1-0", kind=FORGED, at=0.0, fields=(("reason", FORGED),))
    assert describe_event(event).isprintable()
    text = describe(ConflictError(FORGED, found=FORGED, expected=FORGED, remedy=FORGED))
    assert [line[:11].strip() for line in text.splitlines()] == ["error: idle", "found:", "expected:", "try:"]
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(
    ("subject", "own", "told"),
    [("owner nobody", "", "ask another"), ("owner nobody", "wait", "wait"), ("gate", "", "")],
)
def test_advice_is_for_errors_of_its_subject_that_have_none(subject: str, own: str, told: str) -> None:
    with pytest.raises(NotFoundError) as caught, advised("owner", "ask another"):
        raise NotFoundError(subject, found="nothing", remedy=own)
    assert caught.value.remedy == told


def test_whatever_is_printed_has_no_control_character_but_its_own_line_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress(FORGED)
    note(f"one\n{FORGED}")
    emit("any", {}, as_json=False, text=f"one\n{FORGED}")
    told = capsys.readouterr()
    assert told.err.splitlines()[:2] == [ESCAPED, "one"]
    assert all(line.isprintable() for line in (told.out + told.err).split("\n"))


def test_json_says_what_was_sent_and_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit("status", {"swarm": status(FORGED)}, as_json=True, text="")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert json.loads(line)["swarm"]["nodes"][0]["activity"] == FORGED
