"""The descriptors that reflection tells of: the swarm's own, and those of the protocol in its own pool."""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool

from swarm.rpc.pb import open_inference_pb2

PUBLIC_POOL: Final[DescriptorPool] = open_inference_pb2.DESCRIPTOR.pool


class ServedDescriptors:
    """Looks in the protocol's pool first, then in the default one: as much of a pool as reflection asks for.

    Where a process imports another copy of the protocol, that one is in the default pool.
    """

    def __init__(self) -> None:
        self._pools = (PUBLIC_POOL, descriptor_pool.Default())

    def FindFileByName(self, name: str) -> Any:
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        return self._first(lambda pool: pool.FindFileContainingSymbol(symbol))

    def FindMessageTypeByName(self, name: str) -> Any:
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        return message.file.pool.FindAllExtensions(message)

    def _first(self, find: Callable[[DescriptorPool], Any]) -> Any:
        for pool in self._pools[:-1]:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(self._pools[-1])
