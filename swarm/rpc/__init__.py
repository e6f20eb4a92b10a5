"""The wire: generated messages, conversions, servicers, typed clients. Domain types in, domain types out."""

import os

# The C core prints its own lines beside the errors that are raised here; who debugs sets it to DEBUG.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
