"""How often one address may call: a bucket of calls that refills evenly."""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

MOST_ADDRESSES = 4096


class Throttle:
    """`burst` calls at a time, `per_second` in the long run, for each IPv4 address or IPv6 /64 network."""

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float]) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, address: str) -> bool:
        """Count one call of address; False if it must wait."""
        network, now = _network(address), self._clock()
        left, since = self._buckets.pop(network, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._per_second)
        admitted = left >= 1
        self._buckets[network] = (left - 1 if admitted else left, now)
        while len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return admitted


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network(f"{parsed}/64", strict=False))
    return str(parsed)
