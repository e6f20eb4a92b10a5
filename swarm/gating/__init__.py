"""From features to leaves: clusters, prototypes, weights, routes, mixtures. Pure numpy: no I/O, no clock."""
