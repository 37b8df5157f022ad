"""A stream that refuses what would hang or crash the parser behind it, or fill the memory.

The parsers of RDF/XML and JSON-LD recurse, and multiply what entities and contexts stand for; that of Turtle and its
kin recurses for triples inside triples. Each block is looked through before it is passed on.
"""

import codecs
from typing import IO, cast

import pyoxigraph as ox

from groundwire.kg.errors import SourceError
from groundwire.kg.guard_json import JsonWatch
from groundwire.kg.guard_xml import XmlWatch
from groundwire.kg.watch import Watch

_MOST_OPEN = 5_000
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def guarded(stream: IO[bytes], syntax: ox.RdfFormat, name: str) -> IO[bytes]:
    """The stream, watched as its syntax needs it; reading raises `SourceError` that names the file and the line."""
    return cast(IO[bytes], GuardedStream(stream, syntax, name))  # the parser only reads


def check_nesting(body: bytes, *, xml: bool, name: str) -> None:
    """Refuse a document of XML or JSON that is nested without end, before a parser that recurses reads it.

    Raises:
        SourceError: it is.
    """
    watch = XmlWatch(name) if xml else JsonWatch(name)
    watch.pass_on(body)


class GuardedStream:
    """A binary stream of RDF that raises `SourceError` where its parser would hang, crash, or fill the memory.

    A byte order mark of UTF-8 at its start is left out, since not every parser knows it.
    """

    def __init__(self, stream: IO[bytes], syntax: ox.RdfFormat, name: str) -> None:
        self._stream = stream
        self._name = name
        self._watch: Watch | _NestedTriples
        if syntax == ox.RdfFormat.RDF_XML:
            self._watch = XmlWatch(name)
        elif syntax == ox.RdfFormat.JSON_LD:
            self._watch = JsonWatch(name)
        else:
            self._watch = _NestedTriples(name)
        self._begun = False

    @property
    def depth(self) -> int:
        """How many brackets or elements are open after what was read."""
        return self._watch.depth

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the stream, at most `size`."""
        block = self._stream.read(size)
        if not self._begun:
            self._begun = True
            if block.startswith(_UTF16):
                raise SourceError(f"{self._name}: is written in UTF-16; convert it to UTF-8")
            if block.startswith(codecs.BOM_UTF8):
                block = block.removeprefix(codecs.BOM_UTF8) or self._stream.read(size)
        self._watch.pass_on(block)
        return block


class _NestedTriples:
    """Refuses triples nested in triples without end, in Turtle or one of its kin.

    The parser recurses for each `<<`, and a quoted triple is not supported anyway. How many there are without a closing
    one is counted wherever they stand, so that a file of some thousand literals with `<<` alone in them is refused too.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.depth = 0
        self._last = b""

    def pass_on(self, block: bytes) -> None:
        """Look through the next block; lines are not counted, which would take longer than all the rest."""
        if b"<" in self._last + block[:1] or b"<<" in block:
            data = self._last + block
            self.depth = max(0, self.depth + data.count(b"<<") - data.count(b">>"))
            if self.depth > _MOST_OPEN:
                raise SourceError(
                    f"{self.name}: holds triples inside triples (RDF 1.2) without end, which are not supported; reify "
                    "them instead"
                )
        self._last = block[-1:]
