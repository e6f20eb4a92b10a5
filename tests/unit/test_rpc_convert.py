"""Conversions: nothing is lost on the wire, and what cannot be right is refused by name."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from swarm.digests import digest_of
from swarm.domain.agent import AgentState, ExpertMemory, TrainOrder, TrainStep
from swarm.domain.collection import OwnerBytes
from swarm.domain.combination import Combination, TrialOption
from swarm.domain.errors import InvalidInputError, ShapeMismatchError
from swarm.domain.ids import ExpertId, LeafId, NodeId
from swarm.domain.inference import (
    MAX_EXAMPLES,
    MAX_TASKS,
    Answer,
    Examples,
    ExpertForm,
    Listing,
    OwnerShare,
    Profile,
    Query,
    SocketBytes,
    Source,
)
from swarm.domain.lineage import Lineage, LineageEdge, LineageNode
from swarm.domain.membership import (
    Event,
    Head,
    Heartbeat,
    NodeView,
    PlacedVersions,
    RegistryHealth,
    SwarmStatus,
    TokenView,
    Welcome,
)
from swarm.rpc import convert
from swarm.rpc.convert.inference import MAX_OPTIONS
from swarm.rpc.convert.tensors import WIRE_DTYPES
from swarm.rpc.pb import expert_pb2, membership_pb2, types_pb2
from tests.support.rpc import Experts, expert_request, hello, trial

A, B = digest_of(b"a"), digest_of(b"b")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_array_of_finite_numbers_crosses_unchanged(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(WIRE_DTYPES)))
    plain: dict[str, Any] = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    elements = hnp.from_dtype(dtype, **plain)
    array: NDArray[np.generic] = data.draw(hnp.arrays(dtype, SHAPES, elements=elements))
    for given_array in (array, array.T, array.astype(dtype.newbyteorder(">"))):
        message = types_pb2.Tensor()
        convert.set_tensor(message, given_array, "x")
        back = convert.tensor_from_pb(message, "x")
        assert back.dtype == dtype and np.array_equal(back, given_array)


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "error", "text"),
    [
        ("", [1], b"\0", InvalidInputError, "found no dtype"),
        ("object", [1], bytes(8), InvalidInputError, "found 'object'"),
        ("bfloat16", [1], bytes(2), InvalidInputError, "found 'bfloat16'"),
        (">f4", [1], bytes(4), InvalidInputError, "expected a dtype of"),
        ("float32", [2, 3], bytes(23), ShapeMismatchError, "found 23 bytes; expected 24 bytes"),
        ("float32", [2, -3], bytes(24), ShapeMismatchError, "found shape"),
        ("int64", [1 << 62, 1 << 62], b"", ShapeMismatchError, "found 0 bytes"),
        ("float32", [0, 1 << 62], b"", ShapeMismatchError, "real array"),
        ("uint8", [1] * 9, b"\0", ShapeMismatchError, "at most 8"),
        ("bool", [2], b"\0\2", InvalidInputError, "neither 0 nor 1"),
        ("float32", [2], np.array([0, np.nan], "<f4").tobytes(), InvalidInputError, r"found nan at \[1\]"),
        ("float16", [1], np.array([np.inf], "<f2").tobytes(), InvalidInputError, r"found inf at \[0\]"),
    ],
)
def test_a_tensor_that_cannot_be_right_is_refused_by_name(
    dtype: str, shape: list[int], data: bytes, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=rf"^pixels: .*{text}"):
        convert.tensor_from_pb(types_pb2.Tensor(dtype=dtype, shape=shape, data=data), "pixels")


def test_arrays_of_objects_never_leave() -> None:
    with pytest.raises(InvalidInputError, match="dtype object"):
        convert.set_tensor(types_pb2.Tensor(), np.array([object()]), "x")


def test_queries_and_answers_cross_unchanged() -> None:
    query = Query(
        inputs=np.ones((2, 3), np.uint8),
        top_k=2,
        explain=True,
        owners=(NodeId("ada"),),
        uniform=True,
        combination="corrected",
        profile=A,
        gate_version=4,
    )
    back = convert.query_from_pb(convert.query_to_pb(query))
    assert np.array_equal(back.inputs, query.inputs)
    assert (back.top_k, back.explain, back.owners, back.uniform) == (2, True, ("ada",), True)
    assert (back.combination, back.profile, back.gate_version) == ("corrected", A, 4)
    plain = convert.query_from_pb(convert.query_to_pb(Query(inputs=query.inputs)))
    assert (plain.combination, plain.profile, plain.gate_version) == ("", "", 0)
    source = Source(
        leaf=LeafId("ada.l0"),
        expert=ExpertId("ada.e0"),
        version=2,
        manifest=A,
        owner=NodeId("ada"),
        served_by=NodeId("bob"),
        weight=0.75,
        module_digests=(A, B),
        owners=(OwnerShare(owner=NodeId("ada"), weight=0.9), OwnerShare(owner=NodeId("bob"), weight=0.1)),
    )
    answer = Answer(
        class_names=("x", "y"),
        probabilities=np.array([[0.25, 0.75]], np.float32),
        gate_version=4,
        degraded=(True,),
        sources=((source,),),
        missing_experts=(ExpertId("ada.e1"),),
        flops_per_query=12.5,
        combination="corrected top-2",
        gate_entropy=(0.1,),
    )
    returned = convert.answer_from_pb(convert.answer_to_pb(answer))
    assert returned.sources == answer.sources and returned.degraded == (True,)
    assert np.array_equal(returned.probabilities, answer.probabilities)
    assert (returned.missing_experts, returned.flops_per_query) == (("ada.e1",), 12.5)
    assert returned.combination == "corrected top-2" and returned.gate_entropy == (0.1,)


@pytest.mark.parametrize(("field", "value"), [("combination", "best"), ("profile", "not a digest")])
def test_a_query_for_what_cannot_be_is_refused(field: str, value: str) -> None:
    message = convert.query_to_pb(Query(inputs=np.ones((1, 3), np.uint8)))
    setattr(message, field, value)
    with pytest.raises(InvalidInputError, match=r"combination: found 'best'|profile: found"):
        convert.query_from_pb(message)


@pytest.mark.parametrize("numbers", [{"top_k": -1}, {"top_k": 1 << 32}, {"gate_version": -2}])
def test_a_number_that_no_message_holds_is_refused_by_its_name(numbers: dict[str, int]) -> None:
    (name,) = numbers
    with pytest.raises(InvalidInputError, match=f"{name}: found .* expected a number from 0"):
        convert.query_to_pb(Query(inputs=np.ones((1, 3), np.uint8), **numbers))  # type: ignore[arg-type]


def test_examples_and_profiles_cross_and_each_input_needs_a_label() -> None:
    examples = Examples(inputs=np.ones((2, 3), np.uint8), labels=("x", "élm"))
    message = convert.examples_to_pb(examples, "key")
    assert message.idempotency_key == "key"
    back = convert.examples_from_pb(message)
    assert np.array_equal(back.inputs, examples.inputs) and back.labels == examples.labels
    message.labels.append("z")
    with pytest.raises(InvalidInputError, match="examples: found 2 inputs, 3 labels"):
        convert.examples_from_pb(message)
    many = Examples(inputs=np.ones((MAX_EXAMPLES + 1, 1), np.uint8), labels=("x",) * (MAX_EXAMPLES + 1))
    with pytest.raises(InvalidInputError, match=f"1 to {MAX_EXAMPLES}"):
        convert.examples_from_pb(convert.examples_to_pb(many, "key"))
    profile = Profile(
        id=A, owners=(NodeId("ada"),), examples=20, accuracy=0.75, accuracy_all=0.5, gate_version=3
    )
    assert convert.profile_from_pb(convert.profile_to_pb(profile)) == profile
    wrong = convert.profile_to_pb(replace(profile, accuracy=float("nan")))
    with pytest.raises(InvalidInputError, match="accuracy: found nan"):
        convert.profile_from_pb(wrong)


def test_an_answer_whose_parts_do_not_fit_is_refused() -> None:
    message = convert.answer_to_pb(
        Answer(
            class_names=("x", "y"),
            probabilities=np.ones((2, 3), np.float32),
            gate_version=1,
            degraded=(False, False),
        )
    )
    with pytest.raises(
        ShapeMismatchError, match=r"probabilities: found float32 \[2, 3\]; expected .*\[2, 2\]"
    ):
        convert.answer_from_pb(message)


@pytest.mark.parametrize("form", ["probabilities", "corrections"])
async def test_expert_requests_and_answers_cross_unchanged(form: ExpertForm) -> None:
    request = expert_request(3, form=form)
    back = convert.expert_request_from_pb(convert.expert_request_to_pb(request))
    assert np.array_equal(back.inputs, request.inputs) and back.trunk == request.trunk
    assert np.array_equal(back.tasks[0].rows, request.tasks[0].rows)
    assert back.tasks[0].form == form
    answers = await Experts().predict(request)
    returned = convert.expert_answers_from_pb(convert.expert_answers_to_pb(answers), request)
    assert returned[0].class_names == answers[0].class_names
    assert np.array_equal(returned[0].values, answers[0].values) and returned[0].form == form
    with pytest.raises(ShapeMismatchError, match=rf"{form} of ada\.e0"):
        convert.expert_answers_from_pb(convert.expert_answers_to_pb(answers), expert_request(2, form=form))


async def test_another_form_than_the_one_asked_for_is_refused() -> None:
    request = expert_request(3, form="corrections")
    said = convert.expert_answers_to_pb(await Experts().predict(expert_request(3)))
    with pytest.raises(
        InvalidInputError, match=r"answer of ada\.e0: found 'probabilities'; expected corrections"
    ):
        convert.expert_answers_from_pb(said, request)
    for form in ("", "logits"):
        message = convert.expert_request_to_pb(request)
        message.tasks[0].form = form
        with pytest.raises(InvalidInputError, match=r"form of ada\.e0"):
            convert.expert_request_from_pb(message)


def test_options_cross_unchanged_and_combinations_that_cannot_be_are_refused() -> None:
    options = (
        TrialOption(combination=Combination(name="root", class_temperature=0.2), weights="root.3"),
        TrialOption(combination=Combination(name="corrected", temperature=0.3, top_k=4, strength=2.0)),
    )
    assert convert.trial_options_from_pb(convert.trial_options_to_pb(options)) == options
    for field, value in (
        ("name", "best"),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("strength", -1.0),
        ("class_temperature", float("inf")),
        ("top_k", 0),
    ):
        messages = convert.trial_options_to_pb(options)
        setattr(messages[1].combination, field, value)
        with pytest.raises(InvalidInputError, match=r"^combination '"):
            convert.trial_options_from_pb(messages)
    for count in (0, MAX_OPTIONS + 1):
        with pytest.raises(InvalidInputError, match=f"options: found {count}; expected 1 to {MAX_OPTIONS}"):
            convert.trial_options_from_pb(convert.trial_options_to_pb(options[:1]) * count)


def test_a_row_twice_and_more_tasks_than_any_node_has_are_refused() -> None:
    """One input, asked for a million times, was a batch of a million."""
    for rows in ([0, 1, 1], [2, 2], [0] * 1_000_000):
        message = convert.expert_request_to_pb(expert_request(3))
        message.tasks[0].ClearField("rows")
        message.tasks[0].rows.extend(rows)
        with pytest.raises(InvalidInputError, match=r"rows of ada\.e0: found one of them twice"):
            convert.expert_request_from_pb(message)
    message = convert.expert_request_to_pb(expert_request(1))
    for count in (0, MAX_TASKS + 1):
        tasks = [expert_pb2.ExpertTask.FromString(message.tasks[0].SerializeToString())] * count
        other = expert_pb2.ExpertRequest(inputs=message.inputs, tasks=tasks, trunk=message.trunk)
        with pytest.raises(InvalidInputError, match=f"tasks: .*1 to {MAX_TASKS} experts"):
            convert.expert_request_from_pb(other)


def test_rows_beyond_the_inputs_are_refused() -> None:
    message = convert.expert_request_to_pb(expert_request(3))
    message.tasks[0].rows.append(3)
    with pytest.raises(InvalidInputError, match=r"rows of ada\.e0: found row 3; expected rows 0 to 2"):
        convert.expert_request_from_pb(message)


def test_a_gate_trial_crosses_and_impossible_counts_are_refused() -> None:
    assert convert.gate_trial_from_pb(convert.gate_trial_to_pb(trial())) == trial()
    with pytest.raises(InvalidInputError, match="a count outside its samples"):
        convert.gate_trial_from_pb(convert.gate_trial_to_pb(replace(trial(), gained=(21, 0))))
    with pytest.raises(InvalidInputError, match="nll_sum: found nan"):
        convert.gate_trial_from_pb(convert.gate_trial_to_pb(replace(trial(), nll_sum=(float("nan"), 1.0))))
    with pytest.raises(InvalidInputError, match="a count outside its samples"):
        convert.gate_trial_from_pb(convert.gate_trial_to_pb(replace(trial(), lost_on_root=(21, 0))))
    with pytest.raises(ShapeMismatchError, match="gate trial"):
        convert.gate_trial_from_pb(convert.gate_trial_to_pb(replace(trial(), gained_on_root=(1,))))
    with pytest.raises(ShapeMismatchError, match="gate trial"):
        convert.gate_trial_from_pb(convert.gate_trial_to_pb(replace(trial(), lost=(1,))))


def test_members_and_their_views_cross_unchanged() -> None:
    view = NodeView(
        id=NodeId("ada"),
        alive=True,
        revoked=False,
        fence=3,
        advertise="h:7073",
        activity="idle",
        last_seen=1.5,
        experts=(ExpertId("ada.e0"),),
        socket_bytes=SocketBytes(sent=1, received=2),
        software="0.1.0",
    )
    swarm = SwarmStatus(
        swarm="plants",
        specification_version=2,
        class_names=("x",),
        gate_version=3,
        nodes=(view,),
        leaves_without_owner=("bob.l0",),
        redis="ok",
        durability="everysec",
        started_at=1.0,
        server_time=2.0,
        socket_bytes=SocketBytes(),
        certificate_days=3.5,
        stand_ins={"bob.l0": NodeId("ada")},
        replicas=2,
        under_replicated={"bob.l0": 1},
    )
    token = TokenView(id="t", role="node", uses_left=1, expires_at=2.0, created_at=1.0)
    event = Event(id="1-0", kind="k", at=1.0, fields=(("a", "1"), ("b", "2")))
    welcome = Welcome(fence=1, lease_s=10.0, specification=b"s", gate=b"", revocations=b"r", server_time=1.0)
    assert convert.status_from_pb(convert.status_to_pb(swarm)) == swarm
    assert convert.token_from_pb(convert.token_to_pb(token)) == token
    assert convert.event_from_pb(convert.event_to_pb(event)) == event
    assert convert.welcome_from_pb(convert.welcome_to_pb(welcome)) == welcome
    assert convert.hello_from_pb(convert.hello_to_pb(hello())) == hello()


def test_lineage_and_heads_cross_unchanged_and_unknown_words_are_refused() -> None:
    member = LineageNode(
        manifest=A,
        expert=ExpertId("ada.e0"),
        version=1,
        owner=NodeId("ada"),
        standing="descends-from-withdrawn",
        created_at=1.0,
    )
    lineage = Lineage(nodes=(member,), edges=(LineageEdge(child=A, parent=B, kind="borrowed-from"),))
    assert convert.lineage_from_pb(convert.lineage_to_pb(lineage)) == lineage
    message = convert.lineage_to_pb(lineage)
    message.nodes[0].standing = "fine"
    with pytest.raises(InvalidInputError, match="standing: found 'fine'"):
        convert.lineage_from_pb(message)
    head = Head(expert=ExpertId("ada.e0"), version=1, manifest=A)
    assert convert.head_from_pb(convert.head_to_pb(head)) == head
    health = RegistryHealth(
        redis="ok",
        durability="always",
        blobs=1,
        blob_bytes=2,
        disk_free_bytes=3,
        socket_bytes=SocketBytes(sent=4, received=5),
        certificate_days=6.0,
        owners=(OwnerBytes(owner=NodeId("ada"), size_bytes=7, refused_bytes=8),),
        node_quota_bytes=9,
        blobs_away="no answer",
        missing_blobs=7,
        lost=8,
        journal_damaged=9,
    )
    assert convert.health_from_pb(convert.health_to_pb(health)) == health


def test_orders_and_progress_cross_unchanged() -> None:
    order = TrainOrder(
        data="digits",
        net="cnn",
        steps=5,
        share="public",
        import_paths=("/x",),
        sums="compact",
        sums_mb=1.5,
        borrow=False,
        refine=True,
        update="replay",
        memory=7,
        remember="coreset",
        start="a" * 64,
        head="nearest-mean",
        idempotency_key="k",
    )
    assert convert.train_order_from_pb(convert.train_order_to_pb(order)) == order
    dry = TrainOrder(data="digits", dry_run=True)
    assert convert.train_order_from_pb(convert.train_order_to_pb(dry)) == dry
    listing = Listing(
        what="manifest",
        detail="d",
        size_bytes=3,
        recipient="registry",
        at=1.0,
        digest=A,
        attributes={"a": "b"},
    )
    step = TrainStep(stage="done", message="m", fraction=1.0, listings=(listing,), figures={"flops": 2.0})
    assert convert.train_step_from_pb(convert.train_step_to_pb(step)) == step
    state = AgentState(
        node="ada",
        swarm="plants",
        connected=True,
        fence=1,
        gate_version=2,
        activity="idle",
        outbox=0,
        certificate_days=0.5,
        experts=("ada.e0",),
        socket_bytes=SocketBytes(),
        disk_free_bytes=5,
        clock_skew_s=-0.25,
        expert_server_pid=77,
        memory=ExpertMemory(loaded=2, size_bytes=5000, budget_bytes=1 << 33, hits=9, loads=3),
        trouble="the disk is full",
        outbox_trouble="ada.e0@2: bytes of ada in the registry",
    )
    assert convert.agent_state_from_pb(convert.agent_state_to_pb(state)) == state


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (TrainOrder(data="", idempotency_key="k"), "data"),
        (TrainOrder(data="digits"), "idempotency_key"),
        (TrainOrder(data="digits", budget_s=float("nan"), idempotency_key="k"), "budget_s"),
        (TrainOrder(data="digits", share="all", idempotency_key="k"), "share"),  # type: ignore[arg-type]
        (TrainOrder(data="digits", sums="masked", idempotency_key="k"), "sums"),  # type: ignore[arg-type]
        (TrainOrder(data="digits", sums_mb=0.0, idempotency_key="k"), "sums"),
        (TrainOrder(data="digits", sums_mb=float("inf"), idempotency_key="k"), "sums_mb"),
    ],
)
def test_an_order_that_cannot_be_right_is_refused_by_its_field(order: TrainOrder, field: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{field}: "):
        convert.train_order_from_pb(convert.train_order_to_pb(order))


@pytest.mark.parametrize("activity", ["", "train 40%, 2 waiting to be sent", "l\u00e4uft"])
def test_an_activity_of_one_printable_line_crosses_unchanged(activity: str) -> None:
    beat = Heartbeat(
        fence=2, socket_bytes=SocketBytes(), activity=activity, served=(A,), gate_version=3, trouble=activity
    )
    assert convert.heartbeat_from_pb(convert.heartbeat_to_pb(beat)) == beat
    beat = replace(beat, loaded=(A,), declined=(B,), room_bytes=1 << 40)
    assert convert.heartbeat_from_pb(convert.heartbeat_to_pb(beat)) == beat
    assert convert.placement_from_pb(convert.placement_to_pb((A, B))) == (A, B)


@pytest.mark.parametrize(
    "activity", ["idle\x1b[2J\x1b[31mHACKED", "idle\neve  live", "a\x00", "\u202eelti", "\x9b2J", "x" * 201]
)
def test_an_activity_that_would_rewrite_a_terminal_is_refused_and_not_repeated_raw(activity: str) -> None:
    beat = Heartbeat(fence=2, socket_bytes=SocketBytes(), activity=activity, served=(), gate_version=3)
    with pytest.raises(InvalidInputError, match=r"^activity: .*200 printable") as refused:
        convert.heartbeat_from_pb(convert.heartbeat_to_pb(beat))
    assert str(refused.value).isprintable()
    beat = replace(beat, activity="idle", trouble=activity)
    with pytest.raises(InvalidInputError, match=r"^trouble: .*200 printable"):
        convert.heartbeat_from_pb(convert.heartbeat_to_pb(beat))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("software", "s" * (1 << 20)),
        ("software", "\x1b[2J"),
        ("advertise", "a" * 201),
        ("can_build", ("n" * 201,)),
        ("can_build", ("cnn",) * 1025),
        ("manifests", (b"",) * 1001),
        ("served", (digest_of(b""),) * 65537),
    ],
)
def test_a_hello_that_would_burden_every_status_is_refused_by_its_field(field: str, value: Any) -> None:
    """What a node says of itself is kept while it is connected and repeated to whoever asks."""
    with pytest.raises(InvalidInputError, match=field):
        convert.hello_from_pb(convert.hello_to_pb(replace(hello(), **{field: value})))


def test_a_placement_comes_over_the_wire_as_it_is_and_a_false_one_is_refused() -> None:
    ada, bob, eve = map(NodeId, ("ada", "bob", "eve"))
    placed = PlacedVersions(
        mark="m", nodes={digest_of(b"1"): (eve, ada), digest_of(b"2"): (), digest_of(b"3"): (bob,)}
    )
    assert convert.placed_from_pb(convert.placed_to_pb(placed, ""), "") == placed
    short = convert.placed_to_pb(placed, "m")
    assert not short.nodes and convert.placed_from_pb(short, "m") is None
    for change in (
        {"manifests": bytes(32)},
        {"places": [0, 1]},
        {"places": [0, 1, 3]},
        {"counts": [1, 1, 2]},
    ):
        message = membership_pb2.GetPlacementReply()
        message.CopyFrom(convert.placed_to_pb(placed, ""))
        for name in change:
            message.ClearField(name)
        message.MergeFrom(membership_pb2.GetPlacementReply(**change))
        with pytest.raises(InvalidInputError, match="placement"):
            convert.placed_from_pb(message, "")
