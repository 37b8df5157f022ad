"""A hash of what has no order, such as the quads of a graph in a store."""

import hashlib


class SumHash:
    """A hash of many items, whatever their order, without sort or copy.

    It is the sum of each item's SHA-256 modulo 2^256 (AdHash, Bellare and Micciancio 1997).
    """

    def __init__(self) -> None:
        self._total = 0

    def add(self, item: bytes) -> None:
        """Count an item in."""
        self._total += int.from_bytes(hashlib.sha256(item).digest())

    def hexdigest(self) -> str:
        """The hash of what was added, hexadecimal."""
        return f"{self._total % (1 << 256):064x}"
