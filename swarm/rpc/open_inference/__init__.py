"""The Open Inference Protocol, version 2: its messages and bodies converted, its methods served over gRPC."""
