"""What looks through the blocks of a document before its parser gets them, and refuses what that one would choke on."""

from abc import ABC, abstractmethod
from typing import NoReturn

from groundwire.kg.errors import SourceError

_DEEPEST = 500
_LONGEST_MARKUP = 1 << 18  # bytes of one token, which is looked at again with each block until it ends


class Watch(ABC):
    """Follows the nesting of one document. Well-formedness is left to the parser.

    `name` is the document's, for messages; `depth` how many brackets or elements are open; `passed` how many bytes came
    before those that are looked at.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.depth = 0
        self.passed = 0
        self._rest = b""
        self._line = 1

    def pass_on(self, block: bytes) -> None:
        """Look through the next block. Raises `SourceError` that names the document and the line."""
        data = self._rest + block
        position = self.look_through(data)
        self._line += data.count(b"\n", 0, position)
        self.passed += position
        self._rest = data[position:]
        if len(self._rest) > _LONGEST_MARKUP:
            self.refuse("has a tag or a key of more than 256 KiB")

    @abstractmethod
    def look_through(self, data: bytes) -> int:
        """Look through `data`; returns where the token begins that ends in a later block."""

    def deeper(self, data: bytes, position: int) -> None:
        """Count a bracket or an element that opens at `position`."""
        self.depth += 1
        if self.depth > _DEEPEST:
            self.refuse(f"is nested more than {_DEEPEST} levels deep", data, position)

    def refuse(
        self, what: str, data: bytes = b"", position: int = 0, instead: str = "write it as N-Triples or flatter"
    ) -> NoReturn:
        """Raise `SourceError`: what is wrong at `position` of `data`, and what to do `instead`."""
        line = self._line + data.count(b"\n", 0, position)
        raise SourceError(f"{self.name}, line {line}: {what}; {instead}")
