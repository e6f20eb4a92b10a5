"""Which samples of a stream a memory of fixed size holds, so that each has had the same chance."""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def reservoir_slots(seen: int, count: int, capacity: int, seed: int) -> Rows:
    """Return the slot that each of the next count samples of a stream takes, int64 [count]; -1: none.

    seen samples came before. Sample i (from 0) fills slot i while there is room; later ones take slot
    floor(u_i (i + 1)) if there is such a slot, with u_i a function of (seed, i): so after n samples each is
    kept with probability capacity / n, and how the stream was cut into chunks changes nothing.
    Source: algorithm R of Vitter, "Random sampling with a reservoir", 1985.
    """
    numbers = np.arange(seen, seen + count, dtype=np.int64)
    source = np.random.Philox(key=seed).advance(seen)  # four numbers a position, of which one is used
    uniform = np.random.Generator(source).random((count, 4))[:, 0]
    slots = np.where(numbers < capacity, numbers, np.floor(uniform * (numbers + 1)).astype(np.int64))
    return np.where(slots < capacity, slots, -1)


def reservoir(kept: int, seen: int, count: int, capacity: int, seed: int) -> Rows:
    """Return which rows a reservoir of capacity holds next, of `kept` rows it held and count new ones.

    Rows below kept are the old ones. seen: how many samples the old ones were drawn from. A reservoir that
    is not as full as seen demands (its capacity grew, or a class was dropped) counts as all it saw.
    """
    if kept < min(capacity, seen):
        seen = kept
    held = np.arange(min(kept, capacity), dtype=np.int64)
    held = np.concatenate([held, np.full(max(0, min(capacity, seen + count) - len(held)), -1, np.int64)])
    slots = reservoir_slots(seen, count, capacity, seed)
    taken = np.flatnonzero(slots >= 0)
    held[slots[taken]] = kept + taken
    return held
