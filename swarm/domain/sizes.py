"""Sizes as people read them."""


def bytes_text(size: float) -> str:
    """Return a size for people: `1.5 MB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
