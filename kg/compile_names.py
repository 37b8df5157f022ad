"""The matcher's tables of a compiled graph: labels, parts, misspelt label words, words of the graph's texts."""

from __future__ import annotations  # array[int] is no class at run time before Python 3.12

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.format import FolderWriter
from groundwire.kg.hashing import hash_all
from groundwire.kg.labels import COMMON, MOST_SHARED, Preference, lone_names, lower_case_words, matched_key
from groundwire.kg.parts import parts_of
from groundwire.kg.spell import deletions, spellable
from groundwire.kg.terms import literal_parts
from groundwire.kg.words import label_stems

_FILTER_BITS = 16  # bits an entry in the Bloom filter: one word sequence in 16 that is no label passes
_BATCH = 1 << 16


@dataclass(slots=True)
class Names:
    """Labels of entities, by key.

    `keys` are in order of (hash without spaces, text) and `hashes` go with them; the arrays `owners`, `kinds` hold the
    postings of all keys, and `starts` (len(keys) + 1) the first posting of each; `labels` are the labels of each key
    as written.
    """

    keys: list[str]
    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]
    owners: NDArray[np.int64]
    kinds: NDArray[np.uint8]
    labels: list[list[str]]


def sort_names(labels: list[str], owners: NDArray[np.int64], kinds: NDArray[np.uint8]) -> Names:
    """Bring labels (one an owner and kind; any order) into the order of `Names`."""
    folded = [matched_key(label) for label in labels]
    hashes = _hash_batches(key.replace(" ", "") for key in folded)
    order = np.lexsort((kinds, owners, hashes)).tolist()
    _sort_equal_hashes(order, hashes, folded, owners, kinds)
    keys: list[str] = []
    written: list[list[str]] = []
    key_hashes, starts = array("Q"), array("Q")
    posting_owner, posting_kind = array("I"), array("B")
    last_owner = -1
    for place in order:
        owner, key = int(owners[place]), folded[place]
        if not key:
            continue
        if not keys or keys[-1] != key:
            keys.append(key)
            written.append([labels[place]])
            key_hashes.append(int(hashes[place]))
            starts.append(len(posting_owner))
        else:
            if labels[place] not in written[-1]:
                written[-1].append(labels[place])
            if owner == last_owner:
                continue  # the same label twice: the better kind came first
        posting_owner.append(owner)
        posting_kind.append(int(kinds[place]))
        last_owner = owner
    starts.append(len(posting_owner))
    return Names(
        keys,
        np.array(key_hashes, dtype=np.uint64),
        np.array(starts, dtype=np.int64),
        np.array(posting_owner, dtype=np.int64),
        np.array(posting_kind, dtype=np.uint8),
        written,
    )


def _sort_equal_hashes(
    order: list[int], hashes: NDArray[np.uint64], keys: list[str], owners: NDArray[np.int64], kinds: NDArray[np.uint8]
) -> None:
    """Where different keys have one hash (spaces at other places, mostly), put equal keys next to each other."""
    ordered = hashes[order]
    runs = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else np.zeros(0, int)
    ends = np.append(runs[1:], len(order))
    for start, end in zip(runs[ends - runs > 1].tolist(), ends[ends - runs > 1].tolist(), strict=True):
        run = order[start:end]
        if len({keys[place] for place in run}) > 1:
            order[start:end] = sorted(run, key=lambda place: (keys[place], owners[place], kinds[place]))


def _hash_batches(strings: Iterable[str]) -> NDArray[np.uint64]:
    iterator = iter(strings)
    batches = []
    while batch := list(islice(iterator, _BATCH)):
        batches.append(hash_all(batch))
    return np.concatenate(batches) if batches else np.zeros(0, np.uint64)


def write_names(folder: FolderWriter, names: Names) -> None:
    """Write keys, postings, parts, filter and spellings."""
    folder.strings("keys", names.keys, len(names.keys))
    folder.array("key_hash", names.hashes)
    folder.array("key_posting", names.starts)
    folder.array("posting_term", names.owners)
    folder.array("posting_kind", names.kinds)
    part_hashes, part_keys = _parts(names)
    folder.array("part_hash", part_hashes)
    folder.array("part_key", part_keys)
    folder.array("key_filter", _bloom(names.hashes, part_hashes))
    words = sorted({word for key in names.keys for word in key.split(" ") if spellable(word)})
    folder.strings("label_words", words, len(words))
    forms = array("I")

    def all_forms() -> Iterator[str]:
        for number, word in enumerate(words):
            for form in deletions(word):
                forms.append(number)
                yield form

    hashes = _hash_batches(all_forms())
    order = np.argsort(hashes, kind="stable")
    folder.array("spelling_hash", hashes[order])
    folder.array("spelling_word", np.array(forms, dtype=np.uint32)[order])


def _parts(names: Names) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Hash and key of each part of a label that few labels share, ordered by hash, then key."""
    owners = array("I")

    def all_parts() -> Iterator[str]:
        for number, labels in enumerate(names.labels):
            parts = dict.fromkeys(part for label in labels for part in parts_of(label))
            for part in parts:
                owners.append(number)
                yield part

    hashes = _hash_batches(all_parts())
    keys = np.array(owners, dtype=np.uint32)
    order = np.lexsort((keys, hashes))
    hashes, keys = hashes[order], keys[order]
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    few = sizes[group] <= MOST_SHARED
    return hashes[few], keys[few]


def _bloom(*hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    total = sum(map(len, hashes))
    bits = max(10, int(np.ceil(np.log2(max(1, total) * _FILTER_BITS))))
    table = np.zeros(1 << bits, dtype=bool)
    for some in hashes:
        table[some >> np.uint64(64 - bits)] = True
    return np.packbits(table, bitorder="little")


def write_descriptions(
    folder: FolderWriter,
    described: Mapping[int, Preference],
    keys: Sequence[str],
    place: NDArray[np.int64],
    vocabulary: Mapping[str, int],
) -> None:
    """Write the words of the entities' descriptions, and which words the graph's texts hold in lower case."""
    texts = {int(place[owner]): text for owner, (_, _, text) in described.items() if place[owner] >= 0}
    lengths = np.zeros(len(keys), dtype=np.int64)
    about = array("I")
    counts: Counter[str] = Counter()
    for term in sorted(texts):
        known = [vocabulary[stem] for stem in label_stems(texts[term]) if stem in vocabulary]
        lengths[term] = len(known)
        about.extend(known)
        counts.update(lower_case_words(texts[term]))
        counts.update(lone_names(texts[term]))
    for key in keys:
        if not key.startswith('"'):
            break  # literals sort first
        counts.update(lower_case_words(literal_parts(key)[0]))
    folder.array("about_offset", np.concatenate([[0], np.cumsum(lengths)]))
    folder.array("about", np.array(about, dtype=np.uint32))
    words = [word for word, count in counts.items() if count >= COMMON]
    hashes = hash_all(words)
    order = np.argsort(hashes, kind="stable")
    folder.array("lower_hash", hashes[order])
    folder.array("lower_count", np.array([counts[word] for word in words], dtype=np.uint32)[order])
