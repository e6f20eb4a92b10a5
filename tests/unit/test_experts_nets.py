"""Nets by name and by factory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swarm.domain.errors import InvalidInputError, NotFoundError, SwarmError, VerificationError
from swarm.domain.manifests import NetReference
from swarm.experts.baseline import widened_mlp
from swarm.experts.factories import buildable, can_build
from swarm.experts.flops import forward_flops
from swarm.experts.nets import MAX_WIDTH, build_net, flops_by_name, net_reference

USERS_OWN = """
import torch

def factory(*, input_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(input_shape[0] * input_shape[1], classes))

def no_module(*, input_shape, classes):
    return [1, 2]

def too_wide(*, input_shape, classes):
    return factory(input_shape=input_shape, classes=classes + 1)

def failing(*, input_shape, classes):
    raise RuntimeError("no weights found")

def wrong_input(*, input_shape, classes):
    return torch.nn.Linear(999, classes)
"""


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    name = f"own_nets_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(USERS_OWN)
    return tmp_path


def own(folder: Path, function: str) -> str:
    return f"{next(folder.glob('own_nets_*.py')).stem}:{function}"


@pytest.mark.parametrize("name", ["linear", "mlp", "mlp:32x1", "cnn", "cnn:4x8"])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (32, 32, 3), (16, 16)])
def test_a_net_by_name_takes_every_image_shape(name: str, shape: tuple[int, ...]) -> None:
    net = build_net(net_reference(name, shape, 5))
    assert net(torch.rand(3, *shape)).shape == (3, 5)


def test_an_mlp_takes_vectors_and_a_cnn_says_that_it_does_not() -> None:
    assert build_net(net_reference("mlp:16x2", (12,), 2))(torch.rand(4, 12)).shape == (4, 2)
    with pytest.raises(InvalidInputError, match="images"):
        build_net(net_reference("cnn", (12,), 2))


@pytest.mark.parametrize(
    "name", ["mlp:0x2", "mlp:axb", "mlp:99999999x2", "mlp:128x2x3", "linear:3", "resnet", "cnn:4"]
)
def test_a_name_that_is_no_net_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="expected"):
        build_net(net_reference(name, (8, 8), 2))


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        ("linear", (28, 28)),
        ("mlp:64x3", (7,)),
        ("cnn", (28, 28)),
        ("cnn:8x4", (8, 8, 3)),
        ("ridge-root:randconv-sqrt:8", (8, 8)),
    ],
)
def test_what_a_net_takes_is_known_by_its_name(factory: str, shape: tuple[int, ...]) -> None:
    reference = NetReference(factory=factory, input_shape=shape, classes=5, code_digest="")
    assert flops_by_name(reference) == forward_flops(build_net(reference), shape) > 0


def test_a_net_is_counted_without_being_built(users_folder: Path) -> None:
    huge = net_reference("mlp:65536x64", (28, 28), 10)
    assert flops_by_name(huge) > 2 * 63 * 65536**2
    own_net = net_reference(own(users_folder, "factory"), (8, 8), 4, [str(users_folder)])
    assert flops_by_name(own_net) == 0
    with pytest.raises(InvalidInputError, match="mlp:0x2"):
        flops_by_name(net_reference("mlp:0x2", (8, 8), 2))


def test_a_users_own_factory_is_found_in_an_import_path(users_folder: Path) -> None:
    reference = net_reference(own(users_folder, "factory"), (8, 8), 4, [str(users_folder)])
    assert len(reference.code_digest) == 64
    assert build_net(reference, [str(users_folder)])(torch.rand(2, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("no_module", "a list"),
        ("too_wide", r"output \[1, 5\]"),
        ("failing", "no weights found"),
        ("wrong_input", "to take float32 inputs"),
    ],
)
def test_a_factory_that_breaks_its_promise_is_named(users_folder: Path, function: str, words: str) -> None:
    reference = net_reference(own(users_folder, function), (8, 8), 4, [str(users_folder)])
    with pytest.raises(InvalidInputError, match=words) as caught:
        build_net(reference, [str(users_folder)])
    assert function in str(caught.value)


def test_other_code_than_the_experts_is_refused(users_folder: Path) -> None:
    reference = net_reference(own(users_folder, "factory"), (8, 8), 4, [str(users_folder)])
    source = next(users_folder.glob("own_nets_*.py"))
    source.write_text(source.read_text() + "\n# changed\n")
    with pytest.raises(VerificationError, match="source code"):
        build_net(reference, [str(users_folder)])


@pytest.mark.parametrize("name", ["no_such_module:factory", "json:no_such_function"])
def test_a_factory_that_is_not_here_is_named(name: str) -> None:
    with pytest.raises(NotFoundError, match="no_such"):
        net_reference(name, (8, 8), 2)


def test_what_can_be_built_is_told_without_loading_torch(users_folder: Path) -> None:
    factory = own(users_folder, "factory")
    script = (
        "import sys; from swarm.experts.factories import buildable;"
        f"print(*buildable([{factory!r}, 'gone:factory'], [{str(users_folder)!r}]), 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["linear", "mlp", "cnn", "ridge-root", factory, "False"]
    names = buildable()
    assert can_build("mlp:7x7", names)
    assert not can_build(factory, names)


@pytest.mark.parametrize(
    ("shape", "classes", "target"),
    [((28, 28), 10, 2e6), ((28, 28), 10, 5e7), ((32, 32, 3), 100, 1e9), ((64,), 2, 1e5)],
)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_net_is_widened_to_a_budget(
    shape: tuple[int, ...], classes: int, target: float, depth: int
) -> None:
    factory = widened_mlp(shape, classes, target, depth)
    assert factory.startswith("mlp:") and factory.endswith(f"x{depth}")
    width = int(factory[4:].partition("x")[0])
    if width < 10_000:
        cost = forward_flops(build_net(net_reference(factory, shape, classes)), shape)
        assert cost == pytest.approx(target, rel=1 / width)


def test_a_budget_beyond_all_widths_gives_the_widest_or_narrowest() -> None:
    assert widened_mlp((4,), 2, 1e30) == f"mlp:{MAX_WIDTH}x2"
    assert widened_mlp((28, 28), 10, 1) == "mlp:1x2"
    with pytest.raises(InvalidInputError, match="widened net"):
        widened_mlp((4,), 2, float("nan"))


def test_a_seed_gives_the_same_net() -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(5)
        nets.append(build_net(net_reference("cnn", (8, 8), 3)))
    pairs = zip(nets[0].parameters(), nets[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_every_refusal_is_a_domain_error() -> None:
    with pytest.raises(SwarmError):
        net_reference("../etc:passwd", (8, 8), 2)
