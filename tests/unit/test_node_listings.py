"""What a gate trial is listed with is what it tells: every field by name, and its size on the wire."""

from dataclasses import fields

from node.gate_survey import sent_survey_listing
from node.listings import sent_trial_listing, survey_listing, trial_listing
from swarm.domain.growth import LeafSurvey, Survey
from swarm.domain.ids import LeafId
from swarm.domain.inference import GateTrial
from swarm.rpc.convert import gate_trial_to_pb
from tests.support.rpc import trial


def test_a_trial_that_was_sent_is_listed_with_all_its_figures_and_its_size_on_the_wire() -> None:
    sent = trial(3)
    line = sent_trial_listing(sent, 7)
    assert (line.what, line.recipient) == ("trial sums", "coordinator")
    assert line.size_bytes == len(gate_trial_to_pb(sent).SerializeToString())
    assert f"gate 7: 3 combinations on {sent.samples} own validation samples" in line.detail
    for name in {field.name for field in fields(GateTrial)}:
        assert name.replace("_", " ") in line.detail


def test_a_dry_run_lists_a_trial_that_is_no_smaller_than_those_to_come() -> None:
    listed = trial_listing(trial(3).samples)
    assert listed.size_bytes > sent_trial_listing(trial(60), 1).size_bytes
    assert all(name in listed.detail for name in ("gained among own", "lost on root", "taken"))
    assert trial_listing(4096).size_bytes > listed.size_bytes


def test_a_dry_run_names_a_survey_as_one_that_is_sent_does() -> None:
    leaf = LeafSurvey(leaf=LeafId("rose.l1"), samples=40, nll_sum=12.5, correct=30, novel=2)
    sent = sent_survey_listing(Survey(gate_version=7, leaves=(leaf,), fresh=500, fresh_novel=20))
    listed = survey_listing(40)
    assert (listed.what, listed.recipient) == (sent.what, sent.recipient)
    assert listed.size_bytes > sent.size_bytes
    assert all(word in listed.detail for word in ("summed loss", "right and novel", "40 own validation"))
