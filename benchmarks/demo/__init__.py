"""Digits, three nodes, `classes:4`: the report of `swarm up` over several seeds, mean and spread."""
