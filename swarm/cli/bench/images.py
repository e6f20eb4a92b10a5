"""Resizing of small images, so that collections of several sizes fit one swarm."""

import numpy as np
from numpy.typing import NDArray


def resized(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return grey images [N, H, W] as [N, side, side]: bilinear, pixel centres at halves, edges repeated."""
    rows, down = _weights(images.shape[1], side)
    columns, right = _weights(images.shape[2], side)
    values = images.astype(np.float32)
    values = (
        values[:, rows] * (1 - down)[:, None]
        + values[:, np.minimum(rows + 1, images.shape[1] - 1)] * (down[:, None])
    )
    values = (
        values[:, :, columns] * (1 - right)
        + values[:, :, np.minimum(columns + 1, images.shape[2] - 1)] * right
    )
    return np.rint(values).astype(np.uint8)


def _weights(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each new place the old one before it and the share of the next."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    before = np.floor(places).astype(np.int64)
    return before, (places - before).astype(np.float32)
