"""Whom a client speaks as: the identity in a home that `swarm init` or `swarm join` made, or its folder."""

from pathlib import Path

from swarm.config import NodeHome, SwarmHome, default_home
from swarm.domain.errors import NotFoundError
from swarm.trust.identity import Identity

Credentials = str | Path | Identity | None
"""A home or an identity folder, an identity, or None: `$SWARM_HOME`, else the user's own home."""


def load_credentials(credentials: Credentials) -> Identity:
    """Return the identity that is meant; NotFoundError where there is none, else as `Identity.load`."""
    if isinstance(credentials, Identity):
        return credentials
    return Identity.load(identity_folder(default_home() if credentials is None else Path(credentials)))


def identity_folder(folder: Path) -> Path:
    """Return the identity folder in a home of a node, a client or a founder; a folder of one as it is."""
    root = folder.expanduser().resolve()
    for place in (root, NodeHome(root).identity, SwarmHome(root).operator / "identity"):
        if (place / "identity.json").is_file():
            return place
    raise NotFoundError(
        f"credentials in {root}",
        found="no identity",
        expected="a home made by swarm join or swarm init, or its identity folder",
        remedy="operator: swarm token create --role client; here: swarm join TOKEN@HOST:PORT --role client"
        f" --name APP --home {root}",
    )
