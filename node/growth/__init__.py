"""What a node does with an order to grow: split, merge, remove, retrain, add."""
