"""Which root where classes differ much in their samples."""
