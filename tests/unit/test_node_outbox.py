"""The outbox keeps what has to leave, in order, once, until it is acknowledged."""

from pathlib import Path

import pytest

from node.outbox import Outbox, refreshed


def sums_in(folder: Path) -> Path:
    """Return a file of arrays to deliver, as a training job leaves one."""
    path = folder.with_name(f"{folder.name}-arrays")
    path.write_bytes(b"sums")
    return path


def test_what_was_put_is_still_there_after_a_restart(tmp_path: Path) -> None:
    given = sums_in(tmp_path)
    Outbox(tmp_path).put("contribute", key="k", subject="epoch 1", envelope=b"{}", arrays=given)
    given.unlink()
    again = Outbox(tmp_path)
    (intent,) = again.pending()
    arrays = again.arrays(intent)
    assert (intent.key, intent.kind, intent.envelope) == ("k", "contribute", b"{}")
    assert arrays is not None and arrays.read_bytes() == b"sums"


def test_the_same_key_is_kept_once(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    first = outbox.put("publish", key="k", subject="a.e1@1", envelope=b"{}")
    assert outbox.put("publish", key="k", subject="a.e1@1", envelope=b"{}") == first
    assert len(outbox) == 1


def test_intents_come_in_the_order_in_which_they_were_put(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(12):
        outbox.put("publish", key=f"k{number}", subject=f"a.e{number}@1", envelope=b"{}")
    assert [intent.key for intent in outbox.pending()] == [f"k{number}" for number in range(12)]


def test_an_acknowledged_intent_leaves_no_file_and_its_number_is_not_used_again(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    first = outbox.put("contribute", key="k", subject="epoch 1", envelope=b"{}", arrays=sums_in(tmp_path))
    outbox.done(first)
    assert not list(tmp_path.iterdir())
    assert outbox.put("publish", key="l", subject="a.e1@1", envelope=b"{}").number != first.number


def test_what_is_refused_is_kept_with_its_reason(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    intent = outbox.put("contribute", key="k", subject="epoch 1", envelope=b"{}", arrays=sums_in(tmp_path))
    outbox.refuse(intent, "an incumbent would lose")
    assert outbox.pending() == []
    assert outbox.refused() == [("epoch 1", "an incumbent would lose")]
    assert [path.read_bytes() for path in (tmp_path / "refused").glob("*.bin")] == [b"sums"]


def test_a_statement_signed_again_replaces_the_first_under_a_new_key(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    intent = outbox.put("publish", key="k", subject="a.e1@1", envelope=b"old")
    outbox.rewrite(refreshed(intent, key="k-on-3", envelope=b"new"))
    (kept,) = Outbox(tmp_path).pending()
    assert (kept.key, kept.envelope, kept.refreshed) == ("k-on-3", b"new", True)


def test_only_the_newest_contribution_needs_to_go_out(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    first = outbox.put("contribute", key="1", subject="epoch 1", envelope=b"{}")
    second = outbox.put("contribute", key="2", subject="epoch 2", envelope=b"{}")
    assert outbox.superseded(first) and not outbox.superseded(second)


def test_a_damaged_file_does_not_hold_up_the_others(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    damaged = outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    outbox.put("publish", key="2", subject="a.e2@1", envelope=b"{}")
    (tmp_path / f"{damaged.name}.json").write_bytes(b'{"number": 1')
    assert [intent.key for intent in outbox.pending()] == ["2"]
    assert len(list((tmp_path / "refused").iterdir())) == 1


def test_a_crash_while_writing_leaves_nothing_to_deliver(tmp_path: Path) -> None:
    (tmp_path / ".000000001-publish.json.77.tmp").write_bytes(b'{"number"')
    (tmp_path / "000000002-contribute.bin").write_bytes(b"arrays whose intent was never written")
    outbox = Outbox(tmp_path)
    assert outbox.pending() == []
    assert len(list(tmp_path.iterdir())) == 2  # whoever only looks touches nothing: its writer may live
    outbox.sweep()
    assert not list(tmp_path.iterdir())


def test_large_arrays_are_never_copied(tmp_path: Path) -> None:
    given, outbox = sums_in(tmp_path), Outbox(tmp_path)
    intent = outbox.put("contribute", key="k", subject="epoch 1", envelope=b"{}", arrays=given)
    kept = outbox.arrays(intent)
    assert kept is not None and kept.samefile(given)
    outbox.refuse(intent, "an incumbent would lose")
    (refused,) = (tmp_path / "refused").glob("*.bin")
    assert refused.samefile(given) and outbox.arrays(intent) is None


def test_only_the_newest_refusals_are_kept_with_their_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.outbox.KEPT_REFUSED", 3)
    monkeypatch.setattr("node.outbox.KEPT_ARRAYS", 2)
    outbox, arrays = Outbox(tmp_path / "outbox"), tmp_path / "arrays.bin"
    for number in range(6):
        arrays.unlink(missing_ok=True)
        arrays.write_bytes(b"arrays")
        intent = outbox.put(
            "contribute", key=f"k{number}", subject=f"epoch {number}", envelope=b"{}", arrays=arrays
        )
        outbox.refuse(intent, "it harms")
    assert [subject for subject, _ in outbox.refused()] == ["epoch 3", "epoch 4", "epoch 5"]
    assert len(list((tmp_path / "outbox" / "refused").glob("*.bin"))) == 2


def test_what_a_proposal_left_behind_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for key in ("p1-split-a.e2", "p11-split-a.e4", "p1-split-contribution", "job-a.e1"):
        outbox.put("publish", key=key, subject=key, envelope=b"{}")
    outbox.drop("p1-")
    assert [intent.key for intent in outbox.pending()] == ["p11-split-a.e4", "job-a.e1"]


def test_a_file_that_says_to_be_another_one_is_set_aside(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("publish", key="1", subject="a.e1@1", envelope=b"{}")
    second = outbox.put("publish", key="2", subject="a.e2@1", envelope=b"{}")
    file = tmp_path / f"{second.name}.json"
    file.write_bytes(file.read_bytes().replace(b'"number": 2', b'"number": 3'))
    assert [intent.key for intent in outbox.pending()] == ["1"]
    assert len(list((tmp_path / "refused").iterdir())) == 1
