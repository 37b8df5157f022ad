"""A stream that refuses what would hang or crash the parser behind it: nesting without end, entities of entities.

The parsers of RDF/XML and JSON-LD recurse, and RDF/XML expands entities ("billion laughs"). Each block is looked
through before it is passed on; well-formedness is left to the parser.
"""

import io
import re
from typing import IO, cast

import pyoxigraph as ox

from groundwire.kg.errors import SourceError

_DEEPEST = 500
_MOST_OPEN = 5_000
_LONGEST_ENTITY = 1024  # bytes of an entity's value
_LONGEST_MARKUP = 1 << 18  # bytes of one tag, which is looked at again with each block until it ends
# Possessive quantifiers: no input makes these look at a byte more than twice.
_JSON = re.compile(rb'"|[\[{]|[\]}]')
_STRING = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)
_TAG = re.compile(rb"""<(?:[^"'>]++|"[^"]*+"|'[^']*+')*+>""")
_UNTIL = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}  # what is skipped to its end, whatever it holds
_DECLARATION = b"<!ENTITY"
_REFERENCE = re.compile(rb"&(?!#|lt;|gt;|amp;|quot;|apos;)")


def guarded(stream: IO[bytes], syntax: ox.RdfFormat, name: str) -> IO[bytes]:
    """The stream, watched when its syntax needs it; reading raises `SourceError` that names the file and the line."""
    if syntax in (ox.RdfFormat.RDF_XML, ox.RdfFormat.JSON_LD):
        return cast(IO[bytes], GuardedStream(stream, syntax, name))  # the parser only reads
    return cast(IO[bytes], _NestedTriples(stream, name))


def check_nesting(body: bytes, *, xml: bool, name: str) -> None:
    """Refuse a document of XML or JSON that is nested without end, before a parser that recurses reads it.

    Raises:
        SourceError: it is.
    """
    syntax = ox.RdfFormat.RDF_XML if xml else ox.RdfFormat.JSON_LD
    GuardedStream(io.BytesIO(body), syntax, name).read()


class _NestedTriples:
    """A binary stream of Turtle or one of its kin that raises `SourceError` for triples nested in triples without end.

    The parser recurses for each `<<`, and a quoted triple is not supported anyway. How many there are without a closing
    one is counted wherever they stand, so that a file of some thousand literals with `<<` alone in them is refused too.
    """

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream = stream
        self._name = name
        self._open = 0
        self._last = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the stream, at most `size`."""
        block = self._stream.read(size)
        if b"<" in self._last[-1:] + block[:1] or b"<<" in block:
            data = self._last + block
            self._open = max(0, self._open + data.count(b"<<") - data.count(b">>"))
            if self._open > _MOST_OPEN:
                raise SourceError(
                    f"{self._name}: holds triples inside triples (RDF 1.2) without end, which are not supported; reify "
                    "them instead"
                )
        self._last = block[-1:]
        return block


class GuardedStream:
    """A binary stream of RDF/XML or JSON-LD that raises `SourceError` for nesting of more than 500 levels."""

    def __init__(self, stream: IO[bytes], syntax: ox.RdfFormat, name: str) -> None:
        self._stream = stream
        self._xml = syntax == ox.RdfFormat.RDF_XML
        self._name = name
        self._rest = b""
        self._until = b""  # the end of the comment, section or instruction that was begun
        self._in_string = False
        self.depth = 0
        self._line = 1

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the stream, at most `size`."""
        block = self._stream.read(size)
        data = self._rest + block
        position = self._look_through_xml(data) if self._xml else self._look_through_json(data)
        self._line += data.count(b"\n", 0, position)
        self._rest = data[position:]
        if len(self._rest) > _LONGEST_MARKUP:
            self._refuse("has a tag of more than 256 KiB")
        return block

    def _look_through_json(self, data: bytes) -> int:
        position = 0
        while True:
            if self._in_string:
                match = _STRING.match(data, position)
                position = match.end() if match else position
                if data[position : position + 1] != b'"':
                    return position  # a backslash may be left, whose letter comes with the next block
                self._in_string = False
                position += 1
            found = _JSON.search(data, position)
            if found is None:
                return len(data)
            position = found.end()
            if found.group() == b'"':
                self._in_string = True
            elif found.group() in b"[{":
                self._deeper(data, found.start())
            else:
                self.depth -= 1

    def _look_through_xml(self, data: bytes) -> int:
        position = 0
        while True:
            if self._until:
                end = data.find(self._until, position)
                if end < 0:
                    return max(position, len(data) - len(self._until) + 1)
                position = end + len(self._until)
                self._until = b""
            start = data.find(b"<", position)
            if start < 0:
                return len(data)
            if len(data) - start < len(b"<![CDATA["):
                return start  # too little to tell what it is: a whole element takes more
            opened = next((mark for mark in _UNTIL if data.startswith(mark, start)), b"")
            if opened:
                self._until = _UNTIL[opened]
                position = start + len(opened)
            elif data.startswith(b"</", start):
                self.depth -= 1
                position = start + 2
            elif data.startswith(b"<!", start) and not data.startswith(_DECLARATION, start):
                position = start + 2  # <!DOCTYPE: what is inside comes next
            else:
                tag = _TAG.match(data, start)
                if tag is None:
                    return start
                position = tag.end()
                self._element(data, start, tag.group())

    def _element(self, data: bytes, start: int, markup: bytes) -> None:
        if markup.startswith(_DECLARATION):
            if _REFERENCE.search(markup) or len(markup) > _LONGEST_ENTITY:
                self._refuse("declares an entity of entities or a very long one", data, start)
        elif not markup.endswith(b"/>"):
            self._deeper(data, start)

    def _deeper(self, data: bytes, position: int) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            self._refuse(f"is nested more than {_DEEPEST} levels deep", data, position)

    def _refuse(self, what: str, data: bytes = b"", position: int = 0) -> None:
        line = self._line + data.count(b"\n", 0, position)
        raise SourceError(f"{self._name}, line {line}: {what}; write it as N-Triples or flatter")
