"""RDF/XML before its parser, which recurses and expands entities ("billion laughs")."""

import re

from groundwire.kg.watch import Watch

_LONGEST_ENTITY = 1024  # bytes of a declaration
# How much longer entities may make a document: a literal stands in memory as a whole. OWL files come to twice at most.
_FREE_GROWTH, _GROWTH = 16 << 20, 4
# Possessive quantifiers: no input makes these look at a byte more than twice.
_TAG = re.compile(rb"""<(?:[^"'>]++|"[^"]*+"|'[^']*+')*+>""")
_UNTIL = {b"<!--": b"-->", b"<![CDATA[": b"]]>", b"<?": b"?>"}  # what is skipped to its end, whatever it holds
_DECLARATION = b"<!ENTITY"
_NESTED = re.compile(rb"&(?!#|lt;|gt;|amp;|quot;|apos;)")
_DECLARED = re.compile(rb"""<!ENTITY\s++(?:%\s++)?+([^\s"'>]++)[^"']*+["'](.*)["']""", re.DOTALL)
_REFERENCE = re.compile(rb"&([^\s;&<]{1,%d}+);" % _LONGEST_ENTITY)


class XmlWatch(Watch):
    """Refuses elements nested without end, entities of entities, and entities that make the document grow."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._until = b""  # the end of the comment, section or instruction that was begun
        self._lengths: dict[bytes, int] = {}  # of the declared entities' values, in bytes
        self._grown = 0

    def look_through(self, data: bytes) -> int:
        """Look through `data`; returns where the markup begins that ends in a later block."""
        position = self._markup(data)
        if self._lengths:
            self._grown += sum(self._lengths.get(name, 0) for name in _REFERENCE.findall(data, 0, position))
            if self._grown > _FREE_GROWTH + _GROWTH * (self.passed + len(data)):
                instead = "write the entities' values out, or the graph as N-Triples"
                self.refuse("grows to many times its size by its entities", data, position, instead)
        return position

    def _markup(self, data: bytes) -> int:
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
            if _NESTED.search(markup) or len(markup) > _LONGEST_ENTITY:
                self.refuse("declares an entity of entities or a very long one", data, start)
            declared = _DECLARED.match(markup)
            if declared:
                name, value = declared.groups()
                self._lengths[name] = max(len(value), self._lengths.get(name, 0))
        elif not markup.endswith(b"/>"):
            self.deeper(data, start)
