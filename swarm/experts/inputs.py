"""Raw inputs on their way into a network: checked, scaled, moved."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.domain.errors import ShapeMismatchError


def check_inputs(inputs: NDArray[np.generic], input_shape: Sequence[int], subject: str = "inputs") -> None:
    """Raise ShapeMismatchError unless inputs are uint8 or floats [B, *input_shape]."""
    if inputs.dtype not in (np.uint8, np.float32) or tuple(inputs.shape[1:]) != tuple(input_shape):
        raise ShapeMismatchError(
            subject,
            found=f"{inputs.dtype} {list(inputs.shape)}",
            expected=f"uint8 or float32 [B, {', '.join(map(str, input_shape))}]",
            remedy="reshape the inputs, or convert them: inputs.astype(numpy.float32)",
        )


def as_tensor(array: NDArray[np.generic]) -> torch.Tensor:
    """Return a CPU tensor of array's values; it shares array's memory where torch may write there."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def preprocessed(raw: torch.Tensor, scale: float, offset: float) -> torch.Tensor:
    """Return float32 `raw * scale + offset`, what every network sees."""
    return raw.to(torch.float32).mul(scale).add_(offset)


def channels_first(inputs: torch.Tensor) -> torch.Tensor:
    """Return images [B, H, W] or [B, H, W, C] as [B, C, H, W]."""
    return inputs.unsqueeze(1) if inputs.dim() == 3 else inputs.permute(0, 3, 1, 2)


def is_image_shape(shape: Sequence[int]) -> bool:
    """Say whether a shape is an image's, [H, W] or [H, W, C], large enough for a small filter and pooling."""
    return len(shape) in (2, 3) and min(shape[:2]) >= 4


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return tensor on device; to a GPU from pinned memory, without waiting for the copy."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def best_device() -> torch.device:
    """Return the GPU if this machine has one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def exact_float32() -> AbstractContextManager[object]:
    """Return a context in which GPU convolutions keep float32's precision instead of TF32's ten bits."""
    if not torch.cuda.is_available():
        return nullcontext()
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    return cast(AbstractContextManager[object], flags)
