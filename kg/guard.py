"""A stream that refuses what would hang or crash the parser behind it: nesting without end, entities of entities.

The parsers of RDF/XML and JSON-LD recurse, and RDF/XML expands entities ("billion laughs"). Each block is looked
through before it is passed on; well-formedness is left to the parser.
"""

import re
from typing import IO, cast

import pyoxigraph as ox

from groundwire.kg.errors import SourceError

_DEEPEST = 500
_LONGEST_ENTITY = 1024  # bytes of an entity's value
_LONGEST_MARKUP = 4 << 20  # bytes of one tag, comment or JSON string
_JSON = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_XML = re.compile(
    rb"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<!ENTITY[^>]*>|<!(?!ENTITY)[A-Z]+|</[^>]*>|<[^!?/][^>]*>", re.DOTALL
)
_REFERENCE = re.compile(rb"&(?!#|lt;|gt;|amp;|quot;|apos;)")


def guarded(stream: IO[bytes], syntax: ox.RdfFormat, name: str) -> IO[bytes]:
    """The stream, watched when its syntax needs it; reading raises `SourceError` that names the file and the line."""
    if syntax in (ox.RdfFormat.RDF_XML, ox.RdfFormat.JSON_LD):
        return cast(IO[bytes], GuardedStream(stream, syntax, name))  # the parser only reads
    return stream


class GuardedStream:
    """A binary stream of RDF/XML or JSON-LD that raises `SourceError` for nesting of more than 500 levels."""

    def __init__(self, stream: IO[bytes], syntax: ox.RdfFormat, name: str) -> None:
        self._stream = stream
        self._xml = syntax == ox.RdfFormat.RDF_XML
        self._name = name
        self._rest = b""
        self._depth = 0
        self._line = 1

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the stream, at most `size`."""
        block = self._stream.read(size)
        data = self._rest + block
        position = self._look_through_xml(data) if self._xml else self._look_through_json(data)
        self._line += data.count(b"\n", 0, position)
        self._rest = data[position:]
        if len(self._rest) > _LONGEST_MARKUP:
            self._refuse("has a tag, comment or string of more than 4 MiB")
        return block

    def _look_through_json(self, data: bytes) -> int:
        position = 0
        for match in _JSON.finditer(data):
            found = data[match.start()]
            position = match.end()
            if found in b"[{":
                self._deeper(data, match.start())
            elif found in b"]}":
                self._depth -= 1
        # A string that is not closed yet is looked at again with the next block.
        opened = data.find(b'"', position)
        return len(data) if opened < 0 else opened

    def _look_through_xml(self, data: bytes) -> int:
        position = 0
        for match in _XML.finditer(data):
            position = match.end()
            markup = match.group()
            if markup.startswith(b"<!ENTITY"):
                if _REFERENCE.search(markup) or len(markup) > _LONGEST_ENTITY:
                    self._refuse("declares an entity of entities or a very long one", data, match.start())
            elif markup.startswith((b"<!", b"<?")):
                continue
            elif markup.startswith(b"</"):
                self._depth -= 1
            elif not markup.endswith(b"/>"):
                self._deeper(data, match.start())
        opened = data.find(b"<", position)
        return len(data) if opened < 0 else opened

    def _deeper(self, data: bytes, position: int) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._refuse(f"is nested more than {_DEEPEST} levels deep", data, position)

    def _refuse(self, what: str, data: bytes = b"", position: int = 0) -> None:
        line = self._line + data.count(b"\n", 0, position)
        raise SourceError(f"{self._name}, line {line}: {what}; write it as N-Triples or flatter")
