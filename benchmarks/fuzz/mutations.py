"""Mutations of bytes, of protobuf messages field by field, and of JSON trees, by one seed."""

import json
import random
import struct
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_INTEGERS: Final = (
    0, 1, -1, 2, 7, 127, 128, 255, 256, 1000, 4096, 4097, 65535, 65536, 1 << 20, (1 << 31) - 1, 1 << 31,
    -(1 << 31), (1 << 32) - 1, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, (1 << 63) - 1, -(1 << 63),
    (1 << 64) - 1,
)  # fmt: skip
_FLOATS: Final = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 5e-324, 1e16, 1e18, 1e300, 1.7976931348623157e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
_TEXTS: Final = (
    "", " ", "a", "a" * 40, "a" * 41, "a" * 128, "a" * 129, "a" * 9000, "\0", "ada\0", "ada\n",
    "../../etc/passwd", "a.e0", "ada.e0", "ada.e999999", "ada.e9999999", "ada.l0", "bob.e0", "mal.e0",
    "coordinator", "coordinator.e0", "registry", "operator", "0", "-1", "1e999", "NaN", "0" * 64, "f" * 64,
    "F" * 64, "é", "\u0663", "\u202e", "\U0001f600", "\u2028", "{plants}:head", "*", "%s%n", "'; --", "{}",
    "[]", "null", "true", "float32", "object", "bfloat16", "1-2-3", "99999999999999999999-0", "9" * 5000,
    "sums", "kmeans", "eager", "split", "merge", "add", "retrain", "remove", "antigravity:fly",
    "/etc/passwd", "corrections", "probabilities", "poe", "corrected",
)  # fmt: skip
_BOUNDS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
MOST_BYTES: Final = 2 << 20
"""So large becomes a message whose lists are repeated: its sender's own copies lie in the memory that is
measured. It holds more envelopes than a registry takes at once."""
DEEP: Final = "so deep that no encoder would write it"
"""Stands for 3000 lists inside each other until the tree is text (`json_text`)."""
_VARINT, _FIXED64, _BYTES, _GROUP, _FIXED32 = 0, 1, 2, 3, 5


class Mutator:
    """Changes one thing or a few, at a seed's bidding."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def bytes_changed(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Return data with bits flipped, cut, spliced with another message, or with odd fields appended."""
        changes: tuple[Callable[[bytes, Sequence[bytes]], bytes], ...] = (
            self._flipped, self._cut, self._spliced, self._overwritten, self._appended, self._repeated,
            self._noise,
        )  # fmt: skip
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            data = self.chance.choice(changes)(data, others)
        return data[: 1 << 20]

    def message_changed(self, message: Message) -> None:
        """Give one to three fields anywhere in the message an edge value."""
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            owner, field = self.chance.choice(_fields(message))
            self._change_field(owner, field)

    def json_changed(self, tree: Any) -> Any:
        """Return a JSON tree with one to three places changed."""
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            tree = self._json_once(tree)
        return tree

    def text(self) -> str:
        return self.chance.choice(_TEXTS)

    def _flipped(self, data: bytes, _: Sequence[bytes]) -> bytes:
        changed = bytearray(data)
        for _flip in range(self.chance.choice((1, 1, 2, 8))):
            if changed:
                changed[self.chance.randrange(len(changed))] ^= 1 << self.chance.randrange(8)
        return bytes(changed)

    def _cut(self, data: bytes, _: Sequence[bytes]) -> bytes:
        place = self.chance.randint(0, len(data))
        return data[:place] if self.chance.random() < 0.7 else data[place:]

    def _spliced(self, data: bytes, others: Sequence[bytes]) -> bytes:
        other = self.chance.choice(others) if others else data
        return data[: self.chance.randint(0, len(data))] + other[self.chance.randint(0, len(other)) :]

    def _overwritten(self, data: bytes, _: Sequence[bytes]) -> bytes:
        place = self.chance.randint(0, len(data))
        size = self.chance.choice((1, 2, 4, 8))
        return data[:place] + self.chance.choice((b"\xff", b"\0", b"\x80")) * size + data[place + size :]

    def _appended(self, data: bytes, _: Sequence[bytes]) -> bytes:
        number = self.chance.choice((1, 1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 2047, (1 << 29) - 1))
        kind = self.chance.choice((_VARINT, _FIXED64, _BYTES, _BYTES, _GROUP, 4, _FIXED32, 6, 7))
        tag = _varint(number << 3 | kind)
        body = {
            _VARINT: self.chance.choice(
                (_varint((1 << 64) - 1), b"\xff" * 11, b"\x80" * 9 + b"\x02", b"\x80")
            ),
            _FIXED64: struct.pack("<d", self.chance.choice(_FLOATS)),
            _FIXED32: b"\xff\xff\x7f\x7f",
            _GROUP: tag * self.chance.choice((1, 99, 101, 5000)),
        }.get(kind)
        if body is None:
            inner = self.chance.choice(
                (
                    b"",
                    b"\xff\xfe",
                    b"\xed\xa0\x80",
                    b"\xc0\x80",
                    self.chance.randbytes(20),
                    tag * 40,
                    _nested(number),
                )
            )
            length = self.chance.choice((len(inner), len(inner), len(inner) + 1, 1 << 31, (1 << 64) - 1))
            body = _varint(length) + inner
        return data + tag + body

    def _repeated(self, data: bytes, others: Sequence[bytes]) -> bytes:
        other = self.chance.choice((data, self.chance.choice(others) if others else data))
        return data + other * min(self.chance.choice((1, 2, 20)), MOST_BYTES // max(len(other), 1))

    def _noise(self, data: bytes, _: Sequence[bytes]) -> bytes:
        return self.chance.randbytes(self.chance.choice((1, 10, 100, len(data) + 1)))

    def _change_field(self, owner: Message, field: FieldDescriptor) -> None:
        if field.is_repeated:
            self._change_repeated(owner, field)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            if self.chance.random() < 0.5:
                owner.ClearField(field.name)
            else:
                getattr(owner, field.name).SetInParent()
        else:
            setattr(owner, field.name, self._scalar(field, getattr(owner, field.name)))

    def _change_repeated(self, owner: Message, field: FieldDescriptor) -> None:
        held = getattr(owner, field.name)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            value = entry.fields_by_name["value"]
            if value.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
                key = self.chance.choice([*held, self.text()]) if held else self.text()
                held[key] = self._scalar(value, dict(held).get(key, value.default_value))
            return
        match self.chance.randrange(4):
            case 0:
                owner.ClearField(field.name)
            case 1 if held:
                times = min(self.chance.choice((1, 3, 1100)), MOST_BYTES // max(owner.ByteSize(), 1))
                held.extend(list(islice(cycle(list(held)), min(len(held) * times, 2200))))
            case 2 if held and entry is None:
                place = self.chance.randrange(len(held))
                held[place] = self._scalar(field, held[place])
            case _ if entry is None:
                held.extend([self._scalar(field, b"" if field.type == FieldDescriptor.TYPE_BYTES else "")])
            case _:
                held.add()

    def _scalar(self, field: FieldDescriptor, present: Any) -> Any:
        if field.cpp_type in _BOUNDS:
            least, most = _BOUNDS[field.cpp_type]
            near = present if isinstance(present, int) else 0
            value = self.chance.choice((*_INTEGERS, near + 1, near - 1))
            return min(max(value, least), most)
        if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self.chance.choice(_FLOATS)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return not present
        if field.type == FieldDescriptor.TYPE_BYTES:
            held = present if isinstance(present, bytes) else b""
            return self.bytes_changed(held, [held])
        return self._text_near(present if isinstance(present, str) else "")

    def _text_near(self, present: str) -> str:
        if not present or self.chance.random() < 0.6:
            return self.text()
        place = self.chance.randint(0, len(present))
        odd = self.chance.choice(("", "\0", "é", "A", ".", "\n", "0", present))
        return present[:place] + odd + present[place + 1 :]

    def _json_once(self, tree: Any) -> Any:
        path = self.chance.choice(_paths(tree))
        if not path:
            return self._json_value(tree)
        parent = tree
        for step in path[:-1]:
            parent = parent[step]
        last = path[-1]
        match self.chance.randrange(8):
            case 0 if isinstance(parent, dict):
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[self.text()] = parent[last]
            case 2 if isinstance(parent, list):
                parent.extend((parent * self.chance.choice((1, 2, 70)))[:200])
            case 3 if isinstance(parent, list):
                del parent[last]
            case 4:
                other = self.chance.choice(_paths(tree))
                value = tree
                for step in other:
                    value = value[step]
                parent[last] = _copied(value)
            case _:
                parent[last] = self._json_value(parent[last])
        return tree

    def _json_value(self, present: Any) -> Any:
        if isinstance(present, int) and not isinstance(present, bool) and self.chance.random() < 0.5:
            return self.chance.choice(
                (present + 1, present - 1, -present, present * 2, present * 10**6, 10**30)
            )
        if isinstance(present, float) and self.chance.random() < 0.5:
            return self.chance.choice((-present, present * 1e300, present / 3, 0.0, 1e308))
        if isinstance(present, str) and self.chance.random() < 0.5:
            return self._text_near(present)
        return self.chance.choice(
            (None, True, False, [], {}, [[]], *_INTEGERS, 10**30, 10**400, 10**4000, *_FLOATS, *_TEXTS,
            "\ud800", DEEP, [[[[[[[[1]]]]]]]], [1, 1 << 62], [1 << 40] * 9, {"a": 1})
        )  # fmt: skip


def json_text(tree: Any) -> bytes:
    """Return a tree as JSON bytes, NaN and lone surrogates and all."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000).encode(errors="surrogatepass")


def _fields(message: Message) -> list[tuple[Message, FieldDescriptor]]:
    """Return every field of a message, set or not, and of the messages inside it, with its owner."""
    found = [(message, field) for field in message.DESCRIPTOR.fields]
    for field, value in message.ListFields():
        if field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE or field.message_type.GetOptions().map_entry:
            continue
        for inner in value if field.is_repeated else (value,):
            found += _fields(inner)
    return found


def _paths(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every place in a JSON tree, at most twelve deep."""
    found = [at]
    if len(at) < 12:
        steps = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for step, inner in list(steps)[:60]:
            found += _paths(inner, (*at, step))
    return found


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _nested(number: int) -> bytes:
    """A message inside a message inside a message, beyond what a parser follows."""
    inner = b""
    for _ in range(120):
        inner = _varint(number << 3 | _BYTES) + _varint(len(inner)) + inner
    return inner


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
