"""The apps that are installed with the swarm, by name. Loading one loads Flower."""

import importlib
from typing import cast

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from swarm.domain.errors import NotFoundError
from swarm.domain.federation import APP_NAMES

_MODULES = {
    "sums": "swarm.federation.sums",
    "kmeans": "swarm.federation.kmeans",
    "average": "swarm.federation.averaging",
    "evaluate": "swarm.federation.evaluation",
}


def server_app(name: str) -> ServerApp:
    """Return an app's server side; NotFoundError where there is no such app."""
    return cast(ServerApp, importlib.import_module(_module(name)).server_app)


def client_app(name: str) -> ClientApp:
    """Return an app's node side; NotFoundError where there is no such app."""
    return cast(ClientApp, importlib.import_module(_module(name)).client_app)


def _module(name: str) -> str:
    if name not in _MODULES:
        raise NotFoundError(f"federated app {name[:40]!r}", found="none", expected=", ".join(APP_NAMES))
    return _MODULES[name]
