"""When a delta to the parent is worth more than the bytes that it saves cost."""
