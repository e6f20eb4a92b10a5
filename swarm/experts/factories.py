"""Factories by name: built-in ones, and people's own as `package.module:function`. Loads no torch."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from swarm.data.user_code import is_reference, load_function
from swarm.digests import digest_of
from swarm.domain.errors import InvalidInputError
from swarm.domain.ids import Digest

BUILT_IN_NETS = ("linear", "mlp", "cnn", "ridge-root")
_EVERYBODYS = ("linear", "mlp", "cnn")
"""Those of them that are trained: the root's weights come from sums."""


def is_built_in(factory: str) -> bool:
    """Say whether everybody has this factory: a name without a module, like `mlp:128x2`."""
    return factory.partition(":")[0] in BUILT_IN_NETS


def check_everybodys(factory: str, subject: str) -> None:
    """Raise InvalidInputError for a factory that not everybody has: nobody says what code others run."""
    if factory.partition(":")[0] not in _EVERYBODYS:
        raise InvalidInputError(
            subject,
            found=repr(factory[:80]),
            expected="one that everybody can build: mlp:128x2, cnn, linear",
            remedy="leave it out: a new leaf's net is that of its owner's newest leaf",
        )


def import_factory(
    factory: str, import_paths: Sequence[str] = ()
) -> tuple[Callable[..., Any], Digest | None]:
    """Return the function that `package.module:function` names and its source file's digest (None: no file).

    import_paths are put in front of `sys.path` and stay there, since a factory may import when it is called.
    Raises NotFoundError if module or function is missing, InvalidInputError if the module fails to import.
    """
    if not is_reference(factory):
        raise InvalidInputError(
            "factory",
            found=repr(factory[:80]),
            expected=f"one of {', '.join(BUILT_IN_NETS)}, or package.module:function",
        )
    add_import_paths(import_paths)
    function = load_function(factory, import_paths)
    return function, _source_digest(function)


def add_import_paths(import_paths: Sequence[str]) -> None:
    """Put folders in front of `sys.path`, the first one first."""
    for path in reversed([str(Path(path).resolve()) for path in import_paths]):
        if path not in sys.path:
            sys.path.insert(0, path)
    importlib.invalidate_caches()


def buildable(factories: Iterable[str] = (), import_paths: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of factories that this machine has: all built-in ones, and those of factories whose
    module can be found. Their modules are looked for, not run (parent packages are)."""
    add_import_paths(import_paths)
    return (*BUILT_IN_NETS, *dict.fromkeys(name for name in factories if _is_found(name)))


def can_build(factory: str, names: Iterable[str]) -> bool:
    """Say whether a node that announced names can build factory."""
    return is_built_in(factory) or factory in names


def _is_found(factory: str) -> bool:
    module_name, _, function_name = factory.partition(":")
    if is_built_in(factory) or not function_name:
        return False
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False


def _source_digest(function: Callable[..., Any]) -> Digest | None:
    try:
        path = inspect.getsourcefile(function)
    except TypeError:
        return None
    return digest_of(Path(path).read_bytes()) if path and Path(path).is_file() else None
