"""The wire: generated messages, conversions, servicers, typed clients. Domain types in, domain types out."""
