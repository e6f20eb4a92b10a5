"""How fast and how dear the registry's transfers are, beside a plain TLS socket on the same machine."""
