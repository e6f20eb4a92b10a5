"""How many fields the bytes of a message hold, counted before any of them is given memory.

On the wire an entry of a list takes two bytes, parsed it takes 16 to 80: a message of 64 MiB that is nothing
else would take gigabytes. What travels in numbers here (weights, inputs, statements) is one field each.
Source: the Protocol Buffers encoding.
"""

from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from swarm.domain.errors import InvalidInputError

MOST_FIELDS: Final = 1 << 19
"""Of one message with all that is inside it: the names of 32,768 classes 16 times."""

UNCOUNTED_BYTES: Final = 256 << 10
"""What a message of fewer bytes takes is little, whatever it holds."""

_PACKED_BYTES: Final = 8
"""So many bytes of a packed list of numbers count as a field: each byte may be a number of 8 in memory."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4, _GROUP: 0, _GROUP_END: 0}
_TEXTS: Final = (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE)
_LONGEST_VARINT: Final = 10


def check_fields(kind: type[Message], data: bytes, subject: str) -> None:
    """Raise InvalidInputError, naming subject, where data, a message of this kind, holds more than
    MOST_FIELDS. Bytes that are no message pass: parsing refuses them."""
    if len(data) <= UNCOUNTED_BYTES:
        return
    if count_fields(kind, data, MOST_FIELDS) > MOST_FIELDS:
        raise InvalidInputError(
            subject,
            found=f"more than {MOST_FIELDS} fields in {len(data)} bytes",
            expected=f"at most {MOST_FIELDS}",
            remedy="send less at once",
        )


def count_fields(kind: type[Message], data: bytes, most: int) -> int:
    """Return how many fields a message holds, with those inside its fields, as far as a parser gets; counting
    ends beyond most."""
    fields = at = groups = 0
    end, known = len(data), kind.DESCRIPTOR.fields_by_number
    around = [(end, known)]
    try:
        while fields <= most:
            while at >= end:
                if at > end or groups or len(around) == 1:
                    return fields
                end, known = around.pop()
            fields += 1
            tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at)
            wire = tag & 7
            if wire == _VARINT:
                _, at = _varint(data, at)
            elif wire != _BYTES:
                at += _SIZES[wire]
                # No message here has groups: nothing is known in one.
                groups += (wire == _GROUP) - (wire == _GROUP_END)
                if groups < 0:
                    return fields
            else:
                size, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at)
                field = None if groups else known.get(tag >> 3)
                if field is None or at + size > end:
                    at += size
                elif field.message_type is not None:
                    around.append((end, known))
                    end, known = at + size, field.message_type.fields_by_number
                else:
                    at += size
                    if field.is_repeated and field.cpp_type not in _TEXTS:
                        fields += size // _PACKED_BYTES
    except (IndexError, KeyError):
        return fields  # cut short, or of a kind of field that there is not
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place and where it ends; IndexError where it is none."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise IndexError(at)
