"""How many fields a message holds, seen in its bytes before it is parsed.

Specification: https://protobuf.dev/programming-guides/encoding/. An element of two bytes, such as an empty string or
message, takes a hundred times as much memory once it is parsed, and a message of millions of them holds up the event
loop for seconds, whatever is refused afterwards.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from google.protobuf.message import Message

MOST_FIELDS = 1 << 15
_FEWEST_BYTES = 2  # of a field: its tag, and a number or a length
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT, _MORE = 10, 0x80  # bytes; the bit that says that another one follows
_SIZES: Mapping[int, int] = {_FIXED64: 8, _FIXED32: 4}

_Parts: TypeAlias = dict[int, Any]  # descriptors, for which the package has two types


def has_too_many_fields(content: bytes, kind: type[Message], most: int = MOST_FIELDS) -> bool:
    """Whether a message of `kind` has more than `most` fields, those of the messages within it included.

    Packed numbers are one field. Looks at no more than `most`. Bytes that are no message are left to the parser.
    """
    if len(content) <= most * _FEWEST_BYTES:
        return False
    try:
        return _count(content, kind.DESCRIPTOR, most) > most
    except IndexError:
        return False


def _count(content: bytes, kind: Any, most: int) -> int:
    """The number of fields, or `most` + 1 when there are more."""
    at, end, parts = 0, len(content), _parts(kind)
    around: list[tuple[int, _Parts]] = []  # where the messages end that hold this one
    for count in range(most + 1):
        while at >= end:
            if not around:
                return count
            end, parts = around.pop()
        tag = content[at]
        if tag < _MORE:  # as nearly all are
            at += 1
        else:
            tag, at = _varint(content, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, at = _varint(content, at)
        elif wire_type == _LENGTH:
            size = content[at]
            if size < _MORE:
                at += 1
            else:
                size, at = _varint(content, at)
            inner = parts.get(tag >> 3)
            if inner is None:
                at += size
            else:
                around.append((end, parts))
                end, parts = at + size, _parts(inner)
        else:  # the ends of a group have nothing after their tags
            at += _SIZES.get(wire_type, 0)
    return most + 1


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends. Raises IndexError where it has no end."""
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = content[at + place]
        value |= (byte & (_MORE - 1)) << 7 * place
        if byte < _MORE:
            return value, at + place + 1
    raise IndexError


@lru_cache(maxsize=256)
def _parts(kind: Any) -> _Parts:
    """The fields that hold messages, by their number."""
    return {field.number: field.message_type for field in kind.fields if field.message_type is not None}
