"""The strings of a compiled graph: a blob of UTF-8 and where each string begins, memory-mapped."""

from groundwire.kg.format import Folder
from groundwire.kg.native import native


class Strings:
    """Strings of a blob by number."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._blob = folder.blob(name)
        self._offsets = folder.array(f"{name}_offset")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._offsets[number : number + 2].tolist()
        return self._blob[start:end].decode("utf-8", "surrogatepass")

    def find(self, wanted: str) -> int | None:
        """The number of a string among sorted ones, None when it is not there."""
        sought = wanted.encode("utf-8", "surrogatepass")  # bytes of UTF-8 sort as code points do
        blob, offsets = self._blob, self._offsets
        if native is not None:
            place: int = native.find(blob, offsets, sought)
            return None if place < 0 else place
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
