"""The coordinator as a server of the Open Inference Protocol: its models, answers, statistics and HTTP."""
