"""From features to leaves: clusters, prototypes, sums, weights, routes, mixtures. No I/O, no clock."""
