"""Word substitution: alternative labels from the knowledge graph, and a small table of words that mean the same.

The table (`synonyms.toml`) is written by hand, in groups that a reader of a factual claim takes for the same. Nearest
neighbours of word vectors are no source: "won" and "lost", "north" and "south" are neighbours.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from groundwire.export.attacks.text.meaning import is_protected, words_of
from groundwire.kg import Retriever
from groundwire.kg.index import CASED
from groundwire.kg.retrieve import IndexRetriever

_TABLE = Path(__file__).with_name("synonyms.toml")


class Synonyms:
    """What may stand for a word, or for the name of an entity.

    Args:
        retriever: links texts to entities; their alternative labels are read from it when it is a compiled or rdflib
            retriever of this package. None for the table alone.
        groups: groups of words in lower case that mean the same; the table of this package when None.
        aliases: whether an entity's name may be exchanged for another name of the same entity. Its words are never
            exchanged one by one.
    """

    def __init__(
        self,
        retriever: Retriever | None = None,
        groups: Sequence[Sequence[str]] | None = None,
        *,
        aliases: bool = True,
    ) -> None:
        self.retriever = retriever
        self._words: dict[str, list[str]] = {}
        for group in read_table() if groups is None else groups:
            for word in group:
                self._words.setdefault(word, []).extend(other for other in group if other != word)
        self._aliases = aliases_of(retriever) if aliases and isinstance(retriever, IndexRetriever) else {}

    def of_word(self, word: str) -> list[str]:
        """Words for a word, written with a capital where it has one."""
        found = self._words.get(word.lower(), [])
        if word[:1].isupper():
            return [other[:1].upper() + other[1:] for other in found]
        return list(found)

    def of_entity(self, entity: str, written: str) -> list[str]:
        """Other names of an entity (IRI) that the graph takes for it: linking finds the entity again."""
        assert self.retriever is not None
        found = []
        for alias in self._aliases.get(entity, ()):
            if alias.casefold() == written.casefold() or is_protected(alias) or is_protected(written):
                continue
            linked = self.retriever.link(alias)
            # A name that other entities have too would leave open which is meant.
            whole = len(linked) == 1 and linked[0].text.casefold() == alias.casefold()
            if whole and {candidate.entity for candidate in linked[0].candidates} == {entity}:
                found.append(alias)
        return found


def word_candidates(synonyms: Synonyms) -> Callable[[str], Mapping[tuple[int, int], Sequence[str]]]:
    """Candidates for `attack_texts`: for each word that may change, by (start, end), words that mean the same."""

    def candidates(text: str) -> dict[tuple[int, int], list[str]]:
        mentions = synonyms.retriever.link(text) if synonyms.retriever is not None else []
        found = {(m.start, m.end): synonyms.of_entity(m.entity, m.text) for m in mentions}
        for start, end in words_of(text):
            inside = any(m.start < end and start < m.end for m in mentions)
            if not inside and not is_protected(text[start:end]) and not _may_be_name(text, start, end):
                found[start, end] = synonyms.of_word(text[start:end])
        return {span: words for span, words in found.items() if words}

    return candidates


def _may_be_name(text: str, start: int, end: int) -> bool:
    """Whether a word has a capital that no beginning of a sentence explains: names are no words to exchange."""
    return text[start].isupper() and (start > 0 or text[end + 1 : end + 2].isupper())


def aliases_of(retriever: IndexRetriever) -> dict[str, tuple[str, ...]]:
    """All labels of each entity (IRI) that has several.

    The index holds labels folded, so case is put back by rule: each word gets a capital when the label has any.
    """
    index = retriever.index
    labels: dict[int, dict[str, None]] = {}
    for key in range(index.info.labels):
        folded = index.key_text(key)
        for posting in index.postings(key):
            written = folded.title() if posting.shape == CASED else folded
            labels.setdefault(posting.node, {})[written] = None
    return {index.key(node): tuple(names) for node, names in labels.items() if len(names) > 1}


@lru_cache(maxsize=1)
def read_table() -> tuple[tuple[str, ...], ...]:
    """The groups of `synonyms.toml`."""
    with _TABLE.open("rb") as file:
        return tuple(tuple(group.split(" / ")) for group in tomllib.load(file)["groups"])
