"""Generated from protos/ by `make proto`; edit the protos."""
