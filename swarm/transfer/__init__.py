"""Blobs from whoever has them: several holders at once, each held to what it says; what broke off goes on."""

from swarm.transfer.downloading import Patience, download
from swarm.transfer.holders import Holder, Holders, likeliest

__all__ = ["Holder", "Holders", "Patience", "download", "likeliest"]
