"""RDF to a compiled graph, step after step: read, choose what is evidence, number the terms, count words, write.

Quads are streamed; what stays in memory is one string a distinct term, one label string a label, and four 32-bit
numbers a triple. The same input gives the same bytes.
"""

from __future__ import annotations  # array[int] is no class at run time before Python 3.12

import gc
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.aliases import write_aliases
from groundwire.kg.compile_fusion import fuse_gathered, write_conflicts
from groundwire.kg.compile_gather import Gathered, gather
from groundwire.kg.compile_names import Names, sort_names, write_descriptions, write_names
from groundwire.kg.errors import CompiledGraphError
from groundwire.kg.format import FolderWriter
from groundwire.kg.hashing import hash_all
from groundwire.kg.info import graph_version
from groundwire.kg.labels import direct_properties, label_owner
from groundwire.kg.prepare import Progress, prepared
from groundwire.kg.read import Source
from groundwire.kg.report import REPORT, report_of
from groundwire.kg.settings import GraphSettings
from groundwire.kg.terms import Quad, fallback_label, is_iri
from groundwire.kg.vectors import DIMENSIONS, WordVectors, with_vectors
from groundwire.kg.words import label_stems

_REPORT_EVERY = 100_000
_BATCH = 10_000


def compile_graph(
    sources: Sequence[Source] | Source,
    out: str | os.PathLike[str],
    settings: GraphSettings | None = None,
    progress: Progress | None = None,
    vectors: WordVectors | None = None,
    check: Callable[[Iterator[Quad]], None] | None = None,
) -> Path:
    """Compile RDF files, rdflib graphs or stores, or SPARQL endpoints to the folder `out`.

    The folder is replaced as a whole when it exists. Entities that the sources call the same are fused, and triples
    inferred, as the settings say (`groundwire.kg.fuse`, `groundwire.kg.reason`); what came of it, and conflicts of
    functional predicates, stand in `out`/report.json.

    `check` gets all quads before anything is compiled, inferred ones with them: `check_shapes` for one; what it raises
    ends the build. With `vectors`, triples are ranked by meaning as well as by word. `progress` is called with the name
    of the step and how many items it has done. Raises `SourceError` for input that can't be read and
    `CompiledGraphError` when `out` can't be written.
    """
    if not isinstance(sources, list | tuple):
        sources = [sources]  # type: ignore[list-item]
    settings = with_vectors(settings or GraphSettings(), vectors)
    report = progress or (lambda step, count: None)
    collecting = gc.isenabled()
    try:
        with FolderWriter(Path(out)) as folder, prepared(sources, settings, report) as ready:
            if check is not None:
                check(ready.quads())
            # No cycles are made below; scanning millions of strings for them doubles the time.
            gc.disable()
            gathered = gather(ready.quads(), settings, report)
            fusion = fuse_gathered(gathered, settings)
            terms, triples = _number(gathered, report)
            counts = _write(folder, gathered, terms, triples, report, vectors)
            write_aliases(folder, fusion, gathered.strings, terms.place)
            conflicts = write_conflicts(folder, terms.keys, triples, settings, fusion)
            folder.json(REPORT, report_of(fusion, conflicts, len(ready.inferred), ready.inconsistencies))
            folder.finish(
                {
                    "version": graph_version(ready.hashes, settings),
                    "source_hashes": ready.hashes,
                    "settings": settings.to_json(),
                    **counts,
                }
            )
    finally:
        if collecting:
            gc.enable()
    return Path(out)


@dataclass(slots=True)
class _Terms:
    """The terms of the triples, sorted by string; `place` maps a gathered number to its term, -1 for an unused one."""

    keys: list[str]
    place: NDArray[np.int64]
    linkable: NDArray[np.bool_]


def _number(got: Gathered, report: Progress) -> tuple[_Terms, NDArray[np.uint32]]:
    """Sort terms by string and triples by (subject, predicate, object, graph), each once. Triples have shape (4, m)."""
    report("sort", 0)
    columns = [
        np.frombuffer(column, dtype=np.uint32) if len(column) else np.zeros(0, np.uint32) for column in got.quads
    ]
    strings = list(got.strings)
    used = np.zeros(len(strings), dtype=bool)
    for column in columns:
        used[column] = True
    default = got.strings.get("")
    if default is not None:
        used[default] = False
    numbers = sorted(np.flatnonzero(used).tolist(), key=strings.__getitem__)
    place = np.full(len(strings), -1, dtype=np.int64)
    place[numbers] = np.arange(len(numbers))
    keys = [strings[number] for number in numbers]
    # The default graph sorts first, as its empty string does.
    sorted_columns = [place[column] for column in columns[:3]] + [place[columns[3]] + 1]
    order = np.lexsort(sorted_columns[::-1])
    triples = np.stack([column[order].astype(np.uint32) for column in sorted_columns])
    if triples.shape[1]:
        distinct = np.ones(triples.shape[1], dtype=bool)
        distinct[1:] = (triples[:, 1:] != triples[:, :-1]).any(axis=0)
        triples = triples[:, distinct]
    linkable = np.zeros(len(keys), dtype=bool)
    linkable[triples[0]] = True
    linkable[triples[2]] = True
    schema = place[np.fromiter(got.schema, np.int64, len(got.schema))]
    linkable[schema[schema >= 0]] = False
    return _Terms(keys, place, linkable), triples


def _preferred(got: Gathered, terms: _Terms) -> list[str]:
    """The preferred label of each term; empty when it is the fallback of the term itself."""
    labels = [""] * len(terms.keys)
    for owner, (_, _, label) in got.preferred.items():
        place = terms.place[owner]
        if place >= 0:
            labels[place] = label
    for place in direct_properties(terms.keys):
        found = got.preferred.get(got.strings.get(label_owner(terms.keys[place]), -1))
        if found is not None and not labels[place]:
            labels[place] = found[2]
    return labels


def _write(
    folder: FolderWriter,
    got: Gathered,
    terms: _Terms,
    triples: NDArray[np.uint32],
    report: Progress,
    vectors: WordVectors | None,
) -> dict[str, int]:
    count, total = len(terms.keys), triples.shape[1]
    labels = _preferred(got, terms)
    folder.strings("terms", terms.keys, count)
    folder.strings("labels", labels, count)
    graphs, graph_place = np.unique(triples[3], return_inverse=True)
    if not len(graphs) or graphs[0] != 0:
        graphs, graph_place = np.concatenate([[0], graphs]), graph_place + 1
    folder.array("graphs", np.maximum(graphs.astype(np.int64) - 1, 0))
    for name, column in zip(("subject", "predicate", "object"), triples[:3], strict=True):
        folder.array(f"triple_{name}", column)
    folder.array("triple_graph", graph_place)
    folder.array("outgoing", _starts(triples[0], count))
    folder.array("incoming", _starts(triples[2], count))
    folder.array("incoming_triple", np.argsort(triples[2], kind="stable"))
    report("words", 0)
    vocabulary = _write_words(folder, terms, triples, labels, report)
    write_descriptions(folder, got.described, terms.keys, terms.place, vocabulary)
    if vectors is not None:
        report("vectors", 0)
        _write_vectors(folder, terms, labels, vectors)
    report("labels", 0)
    names = _names(got, terms)
    write_names(folder, names)
    return {
        "triples": total,
        "entities": len(np.unique(names.owners)),
        "labels": len(names.keys),
        "predicates": len(np.unique(triples[1])),
        "named_graphs": len(graphs) - 1,
        "longest_key_words": max((key.count(" ") + 1 for key in names.keys), default=0),
        "longest_key": max((len(key.replace(" ", "")) for key in names.keys), default=0),
    }


def _starts(values: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=count))])


def _write_words(
    folder: FolderWriter, terms: _Terms, triples: NDArray[np.uint32], labels: list[str], report: Progress
) -> dict[str, int]:
    """Write the words of the terms' labels; returns each stem's place in the vocabulary."""
    vocabulary: dict[str, int] = {}
    words = array("I")
    lengths = np.zeros(len(terms.keys), dtype=np.int64)
    digits = np.zeros(len(terms.keys), dtype=np.uint8)
    for place, key in enumerate(terms.keys):
        label = labels[place] or fallback_label(key)
        stems = label_stems(label)
        lengths[place] = len(stems)
        digits[place] = any(map(str.isdigit, label))
        words.extend([vocabulary.setdefault(stem, len(vocabulary)) for stem in stems])
        if place % _REPORT_EVERY == 0:
            report("words", place)
    stems = list(vocabulary)
    hashes = hash_all(stems)
    order = np.argsort(hashes, kind="stable")
    if len(order) and (hashes[order][1:] == hashes[order][:-1]).any():
        raise CompiledGraphError("two words of the graph have the same 64-bit hash; report this graph to Groundwire")
    rank = np.empty(len(order), dtype=np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    flat = rank[np.frombuffer(words, dtype=np.uint32)] if len(words) else np.zeros(0, np.uint32)
    said = np.bincount(triples[2], minlength=len(terms.keys)) + np.bincount(triples[1], minlength=len(terms.keys))
    frequency = np.bincount(flat, weights=np.repeat(said, lengths), minlength=len(stems))
    folder.array("vocabulary_hash", hashes[order])
    folder.array("vocabulary_frequency", np.minimum(frequency, 2**32 - 1))
    folder.array("term_words_offset", np.concatenate([[0], np.cumsum(lengths)]))
    folder.array("term_words", flat)
    folder.array("term_digit", digits)
    return dict(zip(vocabulary, rank.tolist(), strict=True))


def _write_vectors(folder: FolderWriter, terms: _Terms, labels: list[str], vectors: WordVectors) -> None:
    table = np.zeros((len(terms.keys), DIMENSIONS), dtype=np.int8)
    for start in range(0, len(terms.keys), _BATCH):
        keys = terms.keys[start : start + _BATCH]
        said = [label or fallback_label(key) for key, label in zip(keys, labels[start : start + _BATCH], strict=True)]
        table[start : start + len(keys)] = vectors.labels(said)
    folder.array("term_vectors", table)
    folder.array("token_vectors", vectors.table)
    folder.strings("tokenizer", [vectors.tokenizer_json], 1)


def _names(got: Gathered, terms: _Terms) -> Names:
    """The labels of the entities that can be linked."""
    iri = np.fromiter((is_iri(key) for key in terms.keys), bool, len(terms.keys))
    owners = terms.place[np.frombuffer(got.label_owner, dtype=np.uint32)] if got.label_text else np.zeros(0, np.int64)
    # One place more, for owners that no triple holds (-1).
    wanted = np.flatnonzero(np.append(terms.linkable & iri, False)[owners])
    kinds = np.frombuffer(got.label_kind, dtype=np.uint8)[wanted] if got.label_text else np.zeros(0, np.uint8)
    return sort_names([got.label_text[place] for place in wanted.tolist()], owners[wanted], kinds)
