"""The client for code without asyncio: `AsyncClient` in a thread of its own."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import ArrayLike

from swarm.client.asynchronous import TIMEOUT_S, AsyncClient
from swarm.client.credentials import Credentials
from swarm.domain.errors import UnreachableError
from swarm.domain.inference import Answer, Profile

T = TypeVar("T")


class Client:
    """Asks one swarm, from any number of threads. `close`, or `with`, ends its thread and connections."""

    def __init__(
        self,
        address: str = "",
        credentials: Credentials = None,
        *,
        direct: bool = False,
        timeout_s: float = TIMEOUT_S,
        registry: str = "",
        cache: str | Path | None = None,
        import_paths: Sequence[str] = (),
    ) -> None:
        """As `AsyncClient`."""
        self._client = AsyncClient(
            address,
            credentials,
            direct=direct,
            timeout_s=timeout_s,
            registry=registry,
            cache=cache,
            import_paths=import_paths,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="swarm-client", daemon=True)
        self._thread.start()

    def predict(
        self,
        array: ArrayLike,
        *,
        top_k: int = 0,
        explain: bool = False,
        combination: str = "",
        owners: Sequence[str] = (),
        uniform: bool = False,
        profile: str = "",
        gate_version: int = 0,
        min_confidence: float = 0.0,
        timeout_s: float | None = None,
    ) -> Answer:
        """As `AsyncClient.predict`."""
        return self._run(
            self._client.predict(
                array,
                top_k=top_k,
                explain=explain,
                combination=combination,
                owners=owners,
                uniform=uniform,
                profile=profile,
                gate_version=gate_version,
                min_confidence=min_confidence,
                timeout_s=timeout_s,
            )
        )

    def make_profile(
        self, array: ArrayLike, labels: Sequence[str], *, timeout_s: float | None = None
    ) -> Profile:
        """As `AsyncClient.make_profile`."""
        return self._run(self._client.make_profile(array, labels, timeout_s=timeout_s))

    def close(self) -> None:
        """Close the connections and end the thread; closing again does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise UnreachableError("swarm", found="a client that was closed", remedy="make a new one")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # of a KeyboardInterrupt: nobody waits for the answer any more
            raise
