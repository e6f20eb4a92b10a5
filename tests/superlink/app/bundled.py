"""What the bundle's file must hold for Flower to find the app that is installed with the swarm."""

from swarm.federation.sums import client_app, server_app

__all__ = ["client_app", "server_app"]
