"""The strings of a compiled graph: a blob of UTF-8 and where each string begins, memory-mapped."""

from mmap import mmap
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.format import Folder
from groundwire.kg.native import native


class SortedStrings(Protocol):
    """Strings in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> str:
        """The string of a number."""

    def find(self, text: str) -> int | None:
        """The number of a string, None when it is not there."""


def open_strings(folder: Folder, name: str) -> SortedStrings:
    """The strings `name` of a compiled graph."""
    parts = folder.blob(name), folder.array(f"{name}_offset")
    strings: SortedStrings = native.Strings(*parts) if native is not None else Strings(*parts)
    return strings


class Strings:
    """Strings of a blob by number."""

    def __init__(self, blob: "mmap | bytes", offsets: NDArray[np.uint64]) -> None:
        self._blob = blob
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._offsets[number : number + 2].tolist()
        return self._blob[start:end].decode("utf-8", "surrogatepass")

    def find(self, text: str) -> int | None:
        """The number of a string among sorted ones, None when it is not there."""
        sought = text.encode("utf-8", "surrogatepass")  # bytes of UTF-8 sort as code points do
        blob, offsets = self._blob, self._offsets
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            start, end = offsets[middle : middle + 2].tolist()
            found = blob[start:end]
            if found == sought:
                return middle
            if found < sought:
                low = middle + 1
            else:
                high = middle
        return None
