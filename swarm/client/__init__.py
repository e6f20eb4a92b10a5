"""Asking a swarm from Python: `Client(address, credentials).predict(array)`; `AsyncClient` for asyncio."""

from swarm.client.asynchronous import AsyncClient
from swarm.client.synchronous import Client

__all__ = ["AsyncClient", "Client"]
