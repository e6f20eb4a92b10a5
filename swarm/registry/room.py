"""Room on the blobs' disk: what uploads under way were promised is no room for the next one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from swarm.domain.errors import ExhaustedError
from swarm.domain.ids import Digest


class Reservation:
    """The room of one upload that it has not written yet."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes

    def counting(self, write: Callable[[bytes | memoryview], None]) -> Callable[[bytes | memoryview], None]:
        """Return `write`, which takes of this room what it writes. For one thread at a time."""

        def counted(chunk: bytes | memoryview) -> None:
            write(chunk)
            self.left_bytes -= len(chunk)

        return counted


class Room:
    """Reserves room on a disk, of which `spare_bytes` stay free. For one event loop."""

    def __init__(self, free_bytes: Callable[[], int], spare_bytes: int) -> None:
        self._free_bytes, self._spare_bytes = free_bytes, spare_bytes
        self._reserved: list[Reservation] = []

    @contextmanager
    def reserved(self, blob: Digest, size_bytes: int) -> Iterator[Reservation]:
        """Reserve room for a blob's bytes during the context; ExhaustedError where there is not so much."""
        free = self._free_bytes()
        promised = sum(each.left_bytes for each in self._reserved)
        if size_bytes + promised + self._spare_bytes > free:
            raise ExhaustedError(
                "disk of the registry",
                found=f"{free} bytes free, {promised} of them for other uploads",
                expected=f"{size_bytes} for blob {blob[:12]} and {self._spare_bytes} to spare",
                remedy="free some space there; nothing was stored",
            )
        reservation = Reservation(size_bytes)
        self._reserved.append(reservation)
        try:
            yield reservation
        finally:
            self._reserved.remove(reservation)
