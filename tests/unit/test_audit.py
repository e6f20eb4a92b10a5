"""The audit log names every refusal once, and a flood of them costs a bounded number of lines."""

from structlog.testing import capture_logs

from swarm.audit import MOST_CALLERS, TELL_AFTER_S, RefusalLog
from swarm.domain.errors import InvalidInputError, NotAuthorisedError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


NO = NotAuthorisedError("node eve", found="a call of Fit", expected="one of the roles operator")


def test_a_refusal_is_one_event_with_who_what_and_why() -> None:
    with capture_logs() as events:
        RefusalLog(clock=Clock()).refused("/swarm.v1.Gate/Fit", "node/eve", NO, peer="ipv4:10.0.0.7:5")
    assert events == [
        {
            "event": "refused", "log_level": "info", "method": "/swarm.v1.Gate/Fit", "caller": "node/eve",
            "peer": "ipv4:10.0.0.7:5", "code": "not_authorised", "subject": "node eve", "reason": str(NO),
        }
    ]  # fmt: skip


def test_a_flood_is_counted_by_method_and_code_and_hides_nobody_else() -> None:
    clock = Clock()
    log = RefusalLog(burst=5, per_second=1, clock=clock)
    with capture_logs() as events:
        for _ in range(1000):
            log.refused("Commit", "node/eve", InvalidInputError("x"))
        log.refused("Fit", "node/eve", NO)
        log.refused("Fit", "node/mal", NO)
    assert [event["caller"] for event in events] == ["node/eve"] * 5 + ["node/mal"]
    clock.now = 1.0
    with capture_logs() as events:
        log.refused("Fit", "node/eve", NO)
    told = {(e["method"], e["code"]): e["times"] for e in events if e["event"] == "refused.more"}
    assert told == {("Commit", "invalid_input"): 995, ("Fit", "not_authorised"): 1}
    assert events[-1]["event"] == "refused"


def test_what_was_counted_is_told_after_a_minute_by_anybodys_refusal_and_at_the_end() -> None:
    clock = Clock()
    log = RefusalLog(burst=1, per_second=0, clock=clock)
    for _ in range(3):
        log.refused("Commit", "node/eve", NO)
    clock.now = TELL_AFTER_S
    with capture_logs() as events:
        log.refused("Commit", "node/mal", NO)
    assert [(e["event"], e.get("times")) for e in events] == [("refused.more", 2), ("refused", None)]
    log.refused("Commit", "node/eve", NO)
    with capture_logs() as events:
        log.flush()
        log.flush()
    assert [(e["caller"], e["times"]) for e in events] == [("node/eve", 1)]


def test_strangers_share_their_hosts_account_and_all_accounts_are_bounded() -> None:
    log = RefusalLog(burst=1, per_second=0, clock=Clock())
    with capture_logs() as events:
        for port in range(3):
            log.refused("Status", "", NO, peer=f"ipv4:10.0.0.7:{port}")
        for number in range(MOST_CALLERS + 5):
            log.refused("Status", f"node/n{number}", NO)
    assert sum(e["event"] == "refused" for e in events) == 1 + MOST_CALLERS + 5
    assert [e["times"] for e in events if e["event"] == "refused.more"] == [2]
    assert len(log._accounts) == MOST_CALLERS


def test_an_events_texts_are_cut() -> None:
    with capture_logs() as events:
        RefusalLog(clock=Clock()).refused(
            "Commit", "node/eve", InvalidInputError("s" * 9000, found="f" * 9000)
        )
    assert len(events[0]["subject"]) == len(events[0]["reason"]) == 300
