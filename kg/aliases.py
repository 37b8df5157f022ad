"""The other IRIs of fused entities in a compiled graph: written sorted, looked up by IRI and by entity."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.format import Folder, FolderWriter
from groundwire.kg.fuse import Fusion
from groundwire.kg.strings import open_strings
from groundwire.kg.terms import is_iri

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def write_aliases(folder: FolderWriter, fusion: Fusion, strings: Mapping[str, int], place: NDArray[np.int64]) -> None:
    """Write the other IRIs of the entities that some triple holds; nothing when there are none."""
    aliases = sorted(
        (member, int(place[strings[first]]))
        for member, first in fusion.canonical.items()
        if is_iri(member) and first in strings and place[strings[first]] >= 0
    )
    if aliases:
        terms = np.array([term for _, term in aliases], dtype=np.int64)
        folder.strings("aliases", (member for member, _ in aliases), len(aliases))
        folder.array("alias_term", terms)
        folder.array("alias_by_term", np.argsort(terms, kind="stable"))


class Aliases:
    """The aliases of a folder, memory-mapped."""

    def __init__(self, folder: Folder) -> None:
        self._names = open_strings(folder, "aliases") if folder.has("alias_term") else None
        if self._names is not None:
            self._term, self._by_term = folder.array("alias_term"), folder.array("alias_by_term")

    def find(self, iri: str) -> int | None:
        """The entity of an IRI that is an alias, None for any other."""
        if self._names is None:
            return None
        place = self._names.find(iri)
        return None if place is None else int(self._term[place])

    def of(self, node: int) -> tuple[str, ...]:
        """The aliases of an entity, sorted."""
        if self._names is None:
            return ()
        start, end = (int(np.searchsorted(self._term, node, side, sorter=self._by_term)) for side in _SIDES)
        return tuple(self._names[place] for place in self._by_term[start:end].tolist())
