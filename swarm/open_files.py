"""How many files and connections a service may have open: as many as its machine allows it.

Shells and containers often begin with 1024, which a few hundred members fill.
"""

import resource
from contextlib import suppress
from typing import Final

MOST: Final = 65_536


def raise_limit() -> int:
    """Raise this process's soft limit to the hard one, at most to 65536; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # where the system keeps it lower than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
