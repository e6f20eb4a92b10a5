"""Domain dataclasses as canonical JSON: sorted keys, no spaces, UTF-8, finite numbers, no unknown field.

Decoding is strict: one value has exactly one text. Ids and digests are checked against their grammar,
because they become file names and database keys. A field that came later is left out where it has its
default, so that statements signed before it are still the text of their value.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from swarm.domain.combination import Combination
from swarm.domain.contributions import Contribution, LeafContribution
from swarm.domain.errors import InvalidInputError
from swarm.domain.gates import GateLeaf, GateStatement
from swarm.domain.ids import (
    Digest,
    ExpertId,
    LeafId,
    NodeId,
    SwarmId,
    digest,
    expert_of,
    node_id,
    owner_of,
    swarm_id,
)
from swarm.domain.replay import GivenAnswer

T = TypeVar("T")
LATER: Mapping[type, frozenset[str]] = {
    Contribution: frozenset({"branches", "proposal"}),
    LeafContribution: frozenset({"parent", "manifest"}),
    GateStatement: frozenset({"branches", "change"}),
    GateLeaf: frozenset({"manifest"}),
    Combination: frozenset({"calibration"}),
    GivenAnswer: frozenset({"request_id"}),
}
"""Fields that statements in somebody's store do not have. A class with some lies inside such a class only."""
MAX_JSON_BYTES = 16 << 20
"""More than this is refused unread."""
MAX_JSON_MARKS = 1 << 20
"""So many brackets, braces and commas may be in a text: it has no more values, and a value that takes two
bytes there takes a hundred when it is read."""


def _check_expert(expert: str) -> None:
    if "." not in expert or expert.rpartition(".")[2][:1] != "e":
        raise InvalidInputError("expert id", found=expert[:80], expected="<node>.e<number>")
    owner_of(ExpertId(expert))


_GRAMMAR: dict[object, Callable[[Any], object]] = {
    Digest: digest,
    SwarmId: swarm_id,
    NodeId: node_id,
    LeafId: expert_of,
    ExpertId: _check_expert,
}
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def to_json(value: object) -> bytes:
    """Return the canonical JSON of a domain dataclass.

    Raises InvalidInputError where a field's value is not of the field's type, or not finite.
    """
    cls = type(value)
    try:
        plain = _adapter(cls).dump_python(value, mode="json", warnings=False, fallback=_plain_number)
        _leave_out_later(value, plain)
        data = canonical_json(plain)
    except (PydanticSerializationError, TypeError) as error:
        raise InvalidInputError(cls.__name__, found=f"a value that has no JSON form: {error}") from error
    from_json(cls, data)
    return data


def from_json(cls: type[T], data: bytes) -> T:
    """Return the dataclass that data describes; InvalidInputError names the field that does not fit."""
    plain = parse_json(data, cls.__name__)
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if isinstance(plain, dict) and (unknown := sorted(plain.keys() - known)):
        raise InvalidInputError(
            cls.__name__, found=f"unknown field {unknown[0][:80]!r}", expected=", ".join(sorted(known))
        )
    try:
        value: T = _adapter(cls).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInputError(f"{cls.__name__} {where}".strip(), found=first["msg"]) from error
    _check_ids(cls, value)
    return value


def canonical_json(plain: object) -> bytes:
    """Return plain JSON data in the one form that is signed; InvalidInputError for NaN and infinity."""
    try:
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("JSON", found=str(error), expected="finite numbers and UTF-8 text") from error


def parse_json(data: bytes, subject: str, max_marks: int = MAX_JSON_MARKS) -> object:
    """Return the plain data of a JSON text.

    Raises InvalidInputError, naming subject, for more than 16 MiB or max_marks brackets, braces and commas,
    a field twice, NaN or infinity, too deep nesting, and whatever else is not JSON.
    """
    if len(data) > MAX_JSON_BYTES:
        raise InvalidInputError(subject, found=f"{len(data)} bytes", expected=f"at most {MAX_JSON_BYTES}")
    marks = sum(map(data.count, (b"[", b"{", b",")))
    if marks > max_marks:
        raise InvalidInputError(
            subject, found=f"{marks} brackets, braces and commas", expected=f"at most {max_marks}"
        )

    def refuse_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            twice = _first_twice(name for name, _ in pairs)
            raise InvalidInputError(subject, found=f"the field {twice[:80]!r} twice", expected="once")
        return fields

    def refuse_constant(text: str) -> NoReturn:
        raise InvalidInputError(subject, found=text, expected="finite numbers")

    try:
        return json.loads(data.decode(), object_pairs_hook=refuse_twice, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(subject, found=f"malformed JSON ({str(error)[:120]})") from error


def _first_twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def _adapter(cls: type[T]) -> TypeAdapter[T]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def _leave_out_later(value: Any, plain: Any) -> None:
    """Take from plain, the JSON data of value, each later field at its default."""
    if isinstance(value, tuple | list):
        for item, its_plain in zip(value, plain, strict=True):
            _leave_out_later(item, its_plain)
    elif dataclasses.is_dataclass(value) and (later := LATER.get(type(value))) is not None:
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if field.name in later and inner == _default(field):
                del plain[field.name]
            else:
                _leave_out_later(inner, plain[field.name])


def _default(field: "dataclasses.Field[Any]") -> object:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a JSON type")


@lru_cache(maxsize=64)
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _check_ids(hint: Any, value: Any) -> None:
    """Check every id and digest inside value, which has the declared type hint."""
    if (check := _GRAMMAR.get(hint)) is not None:
        check(value)
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        for field in dataclasses.fields(hint):
            _check_ids(hints[field.name], getattr(value, field.name))
    elif get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        for item in value:
            _check_ids(inner, item)
    elif get_origin(hint) is Mapping:
        key_hint = get_args(hint)[0]
        for key in value:
            _check_ids(key_hint, key)
