"""Times for people: how long ago, how far ahead."""

import time

_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "m"), (1.0, "s"))


def span(seconds: float) -> str:
    """Return a length of time in its largest fitting unit: `3.2 h`."""
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return "0 s"


def ago(at: float) -> str:
    """Return how long ago a time was; `never` for 0."""
    return f"{span(max(time.time() - at, 0.0))} ago" if at else "never"


def ahead(at: float) -> str:
    """Return how far in the future a time is, or that it has passed."""
    left = at - time.time()
    return f"in {span(left)}" if left > 0 else "expired"


def stamp(at: float) -> str:
    """Return a time as local clock time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
