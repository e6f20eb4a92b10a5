"""People's own functions by name: `package.module:function`."""

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from swarm.domain.errors import InvalidInputError, NotFoundError

RUN_WHERE_IT_IS = "run the command in the folder that holds it, or name that folder: --import-path DIR"
"""What to do about a module that was not found; what builds a net elsewhere says more."""
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_reference(text: str) -> bool:
    """Return whether text reads `package.module:function`."""
    return _REFERENCE.fullmatch(text) is not None


def load_function(reference: str, import_paths: Sequence[str] = ()) -> Callable[..., Any]:
    """Return the function that `package.module:function` names.

    The module is sought in import_paths first, then where Python looks, then in the current directory. Raises
    NotFoundError for a module or function that is not there, InvalidInputError where importing it fails.
    """
    module_name, _, function_name = reference.partition(":")
    searched = ", ".join(dict.fromkeys([*import_paths, os.getcwd()]))
    try:
        with _import_paths(import_paths):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InvalidInputError(
                f"module {module_name}", found=str(error), remedy="install what it imports and try again"
            ) from error
        raise NotFoundError(
            f"module {module_name}",
            found=f"no module {error.name}",
            expected=f"a module under {searched} or on Python's path",
            remedy=RUN_WHERE_IT_IS,
        ) from error
    except Exception as error:
        raise InvalidInputError(
            f"module {module_name}",
            found=f"{type(error).__name__}: {error}",
            expected="a module that can be imported",
            remedy=f"see where it fails: python -c 'import {module_name}'",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        own = [name for name, value in vars(module).items() if callable(value) and name[:1] != "_"]
        near = difflib.get_close_matches(function_name, own, n=1)
        raise NotFoundError(
            reference,
            found=f"no function {function_name} in {module.__name__}",
            expected=f"one of {', '.join(own[:12])}" if own else "a function in that module",
            remedy=f"did you mean {module_name}:{near[0]}?" if near else "name a function of that module",
        )
    loaded: Callable[..., Any] = function
    return loaded


def call_dataset(
    reference: str, split: Literal["train", "test"], import_paths: Sequence[str] = ()
) -> tuple[object, object, object]:
    """Return (inputs, labels, class names or None) from a user's dataset function.

    It is called with `split` if it takes that; one that does not has training samples only. It may return
    (inputs, labels), (inputs, labels, class_names), or a mapping with these (or x, y, class_names).
    """
    function = load_function(reference, import_paths)
    takes_split = _takes(function, "split")
    if split == "test":
        check_takes_split(reference, import_paths)
    try:
        with _import_paths(import_paths):
            found = function(split=split) if takes_split else function()
    except Exception as error:
        raise InvalidInputError(
            f"data {reference}",
            found=f"{type(error).__name__}: {error}",
            expected="a function that returns its samples",
            remedy="call it in Python and mend where it fails",
        ) from error
    if isinstance(found, Mapping):
        inputs = found.get("inputs", found.get("x"))
        labels = found.get("labels", found.get("y"))
        if inputs is not None and labels is not None:
            return inputs, labels, found.get("class_names")
    elif isinstance(found, tuple) and len(found) in (2, 3):
        return (*found, None) if len(found) == 2 else found
    raise InvalidInputError(
        f"data {reference}",
        found=type(found).__name__
        + (f" of {len(found)}" if isinstance(found, (tuple, list, Mapping)) else ""),
        expected="(inputs, labels), (inputs, labels, class_names) or a dict with inputs and labels",
        remedy="let the function return one of these",
    )


def check_takes_split(reference: str, import_paths: Sequence[str] = ()) -> None:
    """Raise NotFoundError where a user's dataset function has no test samples to give."""
    if not _takes(load_function(reference, import_paths), "split"):
        raise NotFoundError(
            f"test samples of {reference}",
            found="a function without the parameter `split`",
            expected='dataset(split) with split "train" or "test"',
            remedy="let it take `split` and return test samples for split='test'",
        )


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@contextmanager
def _import_paths(paths: Sequence[str]) -> Iterator[None]:
    before = list(sys.path)
    sys.path[:] = [*paths, *before, os.getcwd()]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
