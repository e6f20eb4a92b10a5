"""Your own net and data in a swarm: docs/guides/own-net-and-data.md walks through it."""
