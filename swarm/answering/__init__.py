"""From a query to its answer, for whoever routes: the coordinator, a client in direct mode, a node."""
