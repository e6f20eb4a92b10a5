"""The Python text that builds a built-in net in plain torch, its tensors named as in the exported file."""

import re
from collections.abc import Sequence
from typing import Final

from swarm.domain.manifests import Manifest
from swarm.domain.tensors import ModuleEntry

_LAYERS: Final = {
    "linear": re.compile(r"head"),
    "mlp": re.compile(r"hidden[1-9][0-9]?|head"),
    "cnn": re.compile(r"conv1|conv2|hidden|head"),
}
"""The layers' names; others, which an owner may choose as it likes, never come into a program."""


def plain_net(manifest: Manifest) -> str:
    """Return the source of a class `Net` without arguments, empty where the net is no built-in one.

    Its layers are those of the manifest's tensors, so that `load_state_dict` fits.
    """
    kind = manifest.net.factory.partition(":")[0]
    if kind not in _LAYERS or not all(_is_plain(module, _LAYERS[kind]) for module in manifest.modules):
        return ""
    if kind == "cnn":
        return _cnn(manifest.modules, manifest.net.input_shape)
    return _mlp(manifest.modules)


def _is_plain(module: ModuleEntry, names: re.Pattern[str]) -> bool:
    shapes = {tensor.name: len(tensor.shape) for tensor in module.tensors}
    sides = 4 if module.name.startswith("conv") else 2
    return names.fullmatch(module.name) is not None and shapes == {"weight": sides, "bias": 1}


def _mlp(modules: Sequence[ModuleEntry]) -> str:
    names = [module.name for module in modules]
    hidden = [name for name in names if name != "head"]
    layers = [f"        self.{module.name} = nn.Linear({_sides(module)})" for module in modules]
    steps = [f"        x = torch.relu(self.{name}(x))" for name in sorted(hidden, key=_number)]
    return _class(layers, ["        x = x.flatten(1)", *steps, "        return self.head(x)"])


def _cnn(modules: Sequence[ModuleEntry], input_shape: Sequence[int]) -> str:
    layers = []
    for module in modules:
        shape = _weight(module)
        if len(shape) == 4:
            padding = 1 if shape[2] == 3 else 0
            layer = f"nn.Conv2d({shape[1]}, {shape[0]}, {shape[2]}, padding={padding})"
        else:
            layer = f"nn.Linear({_sides(module)})"
        layers.append(f"        self.{module.name} = {layer}")
    first = "x.unsqueeze(1)" if len(input_shape) == 2 else "x.permute(0, 3, 1, 2)"
    return _class(
        layers,
        [
            f"        x = {first}",
            "        x = F.max_pool2d(torch.relu(self.conv1(x)), 2)",
            "        x = F.max_pool2d(torch.relu(self.conv2(x)), 2)",
            "        return self.head(torch.relu(self.hidden(x.flatten(1))))",
        ],
    )


def _class(layers: Sequence[str], forward: Sequence[str]) -> str:
    head = ("class Net(nn.Module):", "    def __init__(self):", "        super().__init__()")
    return "\n".join([*head, *layers, "", "    def forward(self, x):", *forward])


def _weight(module: ModuleEntry) -> tuple[int, ...]:
    return next(tensor.shape for tensor in module.tensors if tensor.name == "weight")


def _sides(module: ModuleEntry) -> str:
    outputs, inputs = _weight(module)
    return f"{inputs}, {outputs}"


def _number(name: str) -> int:
    return int(name.removeprefix("hidden"))
