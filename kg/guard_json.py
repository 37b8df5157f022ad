"""JSON-LD before its parser, which recurses, and copies all terms in force for each context that comes into force.

The tokens are followed without a tree of the document. What is kept is how many terms are in force in each open object
or array, and the text of a context until it ends (`groundwire.kg.contexts`). A copy of a term takes about a microsecond
and 700 bytes.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from groundwire.kg.contexts import Context, measure
from groundwire.kg.watch import Watch
from groundwire.surrogates import SURROGATE

# Strings with what follows them; one that has no end yet; brackets. Possessive: no byte is looked at more than twice.
_TOKEN = re.compile(rb'("(?:[^"\\]|\\.)*+")([ \t\r\n]*+:?)|"|[\[{]|[\]}]', re.DOTALL)
_STRING = re.compile(rb'(?:[^"\\]|\\.)*+', re.DOTALL)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # of a pair of surrogates, or a lone one
_LONGEST_NAME = 8192  # bytes of a string that may be a term
_LONGEST_CONTEXT = 4 << 20  # bytes
_FREE_COPIES, _COPIES = 500_000, 4  # of terms: so many, and so many more for each byte read
_MOST_HELD = 300_000  # terms of all contexts in force at once, those of the objects around them with them
_TYPE_COPIES = 4  # contexts that a type brings along are copied so often, measured
_LEAST_VALUE = 4  # bytes
_QUOTE, _COLON, _ARRAY, _OPENING = *b'":[', b"[{"


@dataclass(slots=True)
class _Open:
    """An open object or array: the `terms` in force, and those `held` for it and all around it, `below` around it only.

    `start` is its place in the document, `uses` how many contexts came into force inside, and `items` how many each of
    its items brings along.
    """

    start: int
    terms: int
    held: int
    below: int
    uses: int = 0
    items: int = 0


class JsonWatch(Watch):
    """Refuses nesting without end, and contexts that the parser would take minutes or gigabytes for, or crash on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._in_string = False
        self._open = [_Open(0, 0, 0, 0)]
        self._copied = 0
        self._scoped: dict[str, int] = {}  # terms of any context that bring contexts along, and how many
        self._brought = 0  # contexts that the key before brings along for its value
        self._awaited = False  # whether the key before is @context
        self._context: bytearray | None = None  # a context until it ends
        self._outside = 0  # depth outside of it
        self._from = 0  # where it goes on, or begins
        self._halves = False  # whether the block may hold a lone surrogate

    def look_through(self, data: bytes) -> int:
        """Look through `data`; returns where the string begins that ends in a later block."""
        before = self._end_of_string(data) if self._in_string else 0  # the end of the token before
        if self._in_string:
            return self._keep(data, before)
        self._halves = _HALF.search(data) is not None
        for found in _TOKEN.finditer(data, before):
            start = found.start()
            if self._open[-1].items:
                self._count_items(data, before, start)
            before = found.end()
            if data[start] != _QUOTE:
                (self._opened if data[start] in _OPENING else self._closed)(data, start)
            elif self._is_whole(data, found):
                self._string(data, start, found[1], data[before - 1] == _COLON)
            else:
                if len(data) - start > _LONGEST_NAME and found.end(1) < 0:
                    self._in_string = True
                    start = self._end_of_string(data, start + 1)
                return self._keep(data, start)
        if self._open[-1].items:
            self._count_items(data, before, len(data))
        return self._keep(data, len(data))

    @staticmethod
    def _is_whole(data: bytes, found: re.Match[bytes]) -> bool:
        """Whether the string has its end, and what follows tells whether it is a key."""
        return found.end(1) >= 0 and (found.end() < len(data) or data[found.end() - 1] == _COLON)

    def _end_of_string(self, data: bytes, start: int = 0) -> int:
        """The end of a string that goes on at `start`, or of what can be told of it."""
        match = _STRING.match(data, start)
        end = match.end() if match else start
        if data[end : end + 1] != b'"':
            return end  # a backslash may be left, whose letter comes with the next block
        self._in_string = False
        return end + 1

    def _keep(self, data: bytes, end: int) -> int:
        """Keep what belongs to a context that has not ended; returns `end`."""
        if self._context is not None:
            self._context += data[self._from : end]
            self._from = 0
            if len(self._context) > _LONGEST_CONTEXT:
                self.refuse("has a @context of more than 4 MiB", data, end)
        return end

    def _string(self, data: bytes, start: int, token: bytes, is_key: bool) -> None:
        """A string, which may be a key that matters, or a type."""
        if self._halves and _HALF.search(token):
            self._check_surrogates(data, start, token)
        if self._context is not None:
            return
        if self._awaited:
            self._in_force(data, start, None)
        if is_key:
            self._brought = 0
        if len(token) > _LONGEST_NAME or not (self._scoped or (is_key and (b"@context" in token or b"\\" in token))):
            return
        name = _decoded(token)
        if is_key and name == "@context":
            self._awaited = True
        elif name in self._scoped:
            self._bring(data, start, self._scoped[name], is_key)

    def _bring(self, data: bytes, start: int, count: int, is_key: bool) -> None:
        """A term that brings `count` contexts along: a key, for its value, or a type, for the object around it."""
        here = self._open[-1]
        here.uses += count
        self._hold(data, start, here)
        self._copy(data, start, here.terms * count * (1 if is_key else _TYPE_COPIES))
        if is_key:
            self._brought = count
        elif len(self._open) > 1:
            self._hold(data, start, self._open[-2])  # the types may stand in an array

    def _opened(self, data: bytes, start: int) -> None:
        if self._awaited:
            self._awaited, self._context, self._outside, self._from = False, bytearray(), self.depth, start
        elif self._context is None:
            here = self._open[-1]
            items = (self._brought or here.items) if data[start] == _ARRAY else 0
            self._brought = 0
            self._open.append(_Open(self.passed + start, here.terms, here.held, here.held, items=items))
        self.deeper(data, start)

    def _closed(self, data: bytes, start: int) -> None:
        if self._awaited:
            self._in_force(data, start, None)
        self.depth -= 1
        if self._context is None:
            if len(self._open) > 1:
                uses = self._open.pop().uses
                self._open[-1].uses += uses
            self._brought = 0
        elif self.depth == self._outside:
            text = bytes(self._context) + data[self._from : start + 1]
            self._context = None
            self._in_force(data, start, self._parsed(data, start, text), self.passed + start + 1 - len(text))

    def _count_items(self, data: bytes, start: int, end: int) -> None:
        here = self._open[-1]
        count = data.count(b",", start, end) * here.items
        here.uses += count
        self._copy(data, start, count * here.terms)

    def _in_force(self, data: bytes, position: int, context: Context | None, start: int = 0) -> None:
        """A context of the innermost object, which began at the byte `start` of the document, has ended."""
        here = self._open[-1]
        self._awaited = False
        found = context or Context(fresh=True)
        copied = here.terms + found.nested * (here.terms + found.terms) + found.terms * here.uses
        here.terms = found.terms + (0 if found.fresh else here.terms)
        here.uses += 1 + found.nested
        if found.scoped:
            self._scoped |= {term: max(count, self._scoped.get(term, 0)) for term, count in found.scoped.items()}
            # Which values before it they would have been for was not looked at: as many as there may be.
            copied += here.terms * ((start - here.start) // _LEAST_VALUE)
        self._copy(data, position, copied)
        self._hold(data, position, here)

    def _hold(self, data: bytes, position: int, where: _Open) -> None:
        where.held = max(where.held, where.below + where.terms)
        if where.held > _MOST_HELD:
            self._too_much(data, position)

    def _copy(self, data: bytes, position: int, terms: int) -> None:
        self._copied += terms
        if self._copied > _FREE_COPIES + _COPIES * (self.passed + len(data)):
            self._too_much(data, position)

    def _too_much(self, data: bytes, position: int) -> NoReturn:
        instead = "put one @context at the start of the file, without contexts of single terms, or write N-Triples"
        self.refuse("has too many contexts for so many terms", data, position, instead)

    def _parsed(self, data: bytes, position: int, text: bytes) -> Context:
        try:
            # Numbers mean nothing here, and long ones are slow.
            value = json.loads(text, object_pairs_hook=tuple, parse_int=len, parse_float=len, strict=False)
        except (ValueError, RecursionError) as error:
            self.refuse(f"has a @context that is not valid JSON ({error})", data, position, "correct the file")
        try:
            return measure(value)
        except (ValueError, RecursionError) as error:
            what = f"has a @context that can't be used: {error}"
            self.refuse(what, data, position, "give its terms IRIs, or write the graph as N-Triples")

    def _check_surrogates(self, data: bytes, position: int, token: bytes) -> None:
        if len(token) <= _LONGEST_NAME and SURROGATE.search(_decoded(token)):
            what = "holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
            self.refuse(what, data, position, "write the character, or leave it out")


def _decoded(token: bytes) -> str:
    """The string of a token with its quotes; empty when it is none."""
    try:
        value: Any = json.loads(token, strict=False)
    except ValueError:
        return ""
    return str(value)
