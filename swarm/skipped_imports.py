"""Importing a library without what it merely offers beside: clouds' clients take longer than all the rest."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without"]


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """Let what is imported in this context find none of these modules, unless they are imported already.

    For imports that a library tries and does without.
    """
    hidden = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: import raises ImportError
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
