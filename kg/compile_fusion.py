"""Fusion and conflicts of a compiled graph: columns of term numbers rewritten, and pairs in conflict marked.

The same as `groundwire.kg.fuse` and `groundwire.kg.conflicts` say, on arrays.
"""

from __future__ import annotations  # array[int] is no class at run time before Python 3.12

from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.conflicts import OWL_FUNCTIONAL, Conflict
from groundwire.kg.format import FolderWriter
from groundwire.kg.fuse import Fusion, make_fusion
from groundwire.kg.labels import Preference
from groundwire.kg.settings import RDF_TYPE, GraphSettings

Uints = NDArray[np.uint32]


class Gathered(Protocol):
    """What one pass over the sources gives (`groundwire.kg.compile`); numbers are places in `strings`."""

    strings: dict[str, int]
    quads: tuple[array[int], ...]
    label_owner: array[int]
    schema: set[int]
    preferred: dict[int, Preference]
    described: dict[int, Preference]
    same: list[tuple[str, str]]


def fuse_gathered(got: Gathered, settings: GraphSettings) -> Fusion:
    """Give fused terms one number, that of the term that stands for them. Names of graphs stay as they are."""

    def preference(key: str) -> Preference | None:
        return got.preferred.get(got.strings.get(key, -1))

    fusion = make_fusion(got.same, preference, settings)
    if fusion.canonical:
        moved = _renumber(fusion, got.strings, (*got.quads[:3], got.label_owner))
        got.schema = set(map(moved, got.schema))
        got.preferred = _merge_preferred(got.preferred, moved)
        got.described = _merge_preferred(got.described, moved)
    return fusion


def _renumber(fusion: Fusion, strings: dict[str, int], columns: Sequence[array[int]]) -> Callable[[int], int]:
    """Put in the columns, in place, the number of what stands for each term; returns the same for one number."""
    moved = {
        strings[member]: strings.setdefault(first, len(strings))
        for member, first in fusion.canonical.items()
        if member in strings
    }
    if not moved:
        return lambda number: number
    table = np.arange(len(strings), dtype=np.uint32)
    table[list(moved)] = list(moved.values())
    for column in columns:
        if len(column):
            values = np.frombuffer(column, dtype=np.uint32)
            values[:] = table[values]
    return lambda number: moved.get(number, number)


def _merge_preferred(chosen: dict[int, Preference], moved: Callable[[int], int]) -> dict[int, Preference]:
    """The best preference of each entity."""
    merged: dict[int, Preference] = {}
    for owner, preference in chosen.items():
        owner = moved(owner)  # noqa: PLW2901
        if owner not in merged or preference < merged[owner]:
            merged[owner] = preference
    return merged


def write_conflicts(
    folder: FolderWriter, keys: Sequence[str], triples: Uints, settings: GraphSettings, fusion: Fusion
) -> list[Conflict]:
    """Write the (subject, predicate) pairs in conflict, as subject * 2^32 + predicate; nothing when there are none.

    `triples` has shape (4, m), in canonical order, with 0 for the default graph and term + 1 for others. Returns all
    conflicts.
    """
    subjects, predicates, objects, graphs = triples
    functional = _functional(keys, triples, settings, fusion)
    rows = np.flatnonzero(np.isin(predicates, functional))
    if not len(rows):
        return []
    pairs = (subjects[rows].astype(np.uint64) << np.uint64(32)) | predicates[rows]
    # Rows are sorted by pair, then object: a pair is in conflict when its object changes.
    changed = (pairs[1:] == pairs[:-1]) & (objects[rows][1:] != objects[rows][:-1])
    found = np.unique(pairs[1:][changed])
    if not len(found):
        return []
    folder.array("conflict_pair", found)
    conflicts = []
    for pair, start, end in zip(
        found.tolist(),
        np.searchsorted(pairs, found, "left").tolist(),
        np.searchsorted(pairs, found, "right").tolist(),
        strict=True,
    ):
        values: dict[str, list[str]] = {}
        for row in rows[start:end].tolist():
            graph = int(graphs[row])
            values.setdefault(keys[int(objects[row])], []).append(keys[graph - 1] if graph else "")
        stated = tuple((value, tuple(names)) for value, names in values.items())
        conflicts.append(Conflict(keys[pair >> 32], keys[pair & 0xFFFFFFFF], stated))
    return conflicts


def _functional(keys: Sequence[str], triples: Uints, settings: GraphSettings, fusion: Fusion) -> NDArray[np.int64]:
    def find(key: str) -> int:
        place = bisect_left(keys, key)
        return place if place < len(keys) and keys[place] == key else -1

    kind, functional = find(RDF_TYPE), find(OWL_FUNCTIONAL)
    declared = triples[0][(triples[1] == kind) & (triples[2] == functional)] if min(kind, functional) >= 0 else []
    named = [place for place in map(find, map(fusion.of, settings.functional_predicates)) if place >= 0]
    return np.unique(np.concatenate([np.asarray(declared, np.int64), np.asarray(named, np.int64)]))
