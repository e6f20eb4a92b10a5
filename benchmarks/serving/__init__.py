"""How fast the swarm answers, and what its parts take of that."""
