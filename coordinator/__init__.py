"""The coordinator: joining, membership, the gate's keeper and the routing of queries."""
