"""FLOPs are those that one counts by hand, also where torch's own counter sees none."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swarm.experts.flops import forward_flops, training_flops
from swarm.experts.nets import build_net, net_reference

LENGTH, WIDTH, HIDDEN = 7, 16, 32


class Recurrent(nn.Module):
    def __init__(self, cell: nn.Module, outputs: int) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(outputs, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(inputs)[0][:, -1])


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, HIDDEN, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(inputs).mean(1))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3), nn.Softmax(1),
        )  # fmt: skip

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.body(inputs.unsqueeze(1))


def torchs_count(net: nn.Module, shape: tuple[int, ...]) -> int:
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *shape))
    return counter.get_total_flops()


def test_an_mlp_costs_its_products_and_activations() -> None:
    net = build_net(net_reference("mlp:128x2", (28, 28), 10))
    products = 2 * (784 * 128 + 128 * 128 + 128 * 10)
    assert forward_flops(net, (28, 28)) == products + 128 + 128
    assert torchs_count(net, (28, 28)) == products


def test_convolution_pooling_and_norms_are_counted() -> None:
    convolution = 64 * 4 * 9 * 2
    batch_norm, relu, pooling = 2 * 256, 256, 64 * 4
    layer_norm, linear, softmax = 5 * 64, 2 * 64 * 3, 5 * 3
    found = forward_flops(Convolutional(), (8, 8))
    assert found == convolution + batch_norm + relu + pooling + layer_norm + linear + softmax


@pytest.mark.parametrize(("kind", "gates", "per_unit"), [(nn.LSTM, 4, 13), (nn.GRU, 3, 11), (nn.RNN, 1, 2)])
def test_recurrent_layers_are_counted_from_their_sizes(
    kind: type[nn.RNNBase], gates: int, per_unit: int
) -> None:
    net = Recurrent(kind(WIDTH, HIDDEN, batch_first=True), HIDDEN)
    step = 2 * gates * HIDDEN * (WIDTH + HIDDEN) + per_unit * HIDDEN
    assert forward_flops(net, (LENGTH, WIDTH)) == LENGTH * step + 2 * HIDDEN * 3


def test_torchs_counter_alone_misses_an_lstm() -> None:
    net = Recurrent(nn.LSTM(WIDTH, HIDDEN, batch_first=True), HIDDEN)
    assert torchs_count(net, (LENGTH, WIDTH)) == 2 * HIDDEN * 3


def test_both_directions_and_every_layer_of_an_lstm_count() -> None:
    net = Recurrent(nn.LSTM(WIDTH, HIDDEN, 2, batch_first=True, bidirectional=True), 2 * HIDDEN)
    first = 2 * 4 * HIDDEN * (WIDTH + HIDDEN) + 13 * HIDDEN
    second = 2 * 4 * HIDDEN * (2 * HIDDEN + HIDDEN) + 13 * HIDDEN
    assert forward_flops(net, (LENGTH, WIDTH)) == LENGTH * 2 * (first + second) + 2 * 2 * HIDDEN * 3


def test_a_transformer_is_counted_on_its_fused_path_too() -> None:
    net = Attentive()
    projections = LENGTH * (2 * WIDTH * 3 * WIDTH + 2 * WIDTH * WIDTH)
    attention = 2 * 2 * LENGTH * LENGTH * WIDTH
    feed_forward = LENGTH * 2 * 2 * WIDTH * HIDDEN
    products = 2 * (projections + attention + feed_forward) + 2 * WIDTH * 3
    found = forward_flops(net, (LENGTH, WIDTH))
    assert products < found < 1.1 * products
    assert torchs_count(net, (LENGTH, WIDTH)) < 0.1 * products
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_leaves_the_net_as_it_was() -> None:
    net = Convolutional().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    forward_flops(net, (8, 8))
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_training_costs_three_forward_passes_per_sample() -> None:
    assert training_flops(1000, 64) == 192_000
