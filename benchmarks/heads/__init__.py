"""Are heads linearizable under faults? Histories through the real registry and Redis, checked."""
