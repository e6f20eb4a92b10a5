"""Where samples come from, how they are dealt to nodes, and what stays back for validation."""
