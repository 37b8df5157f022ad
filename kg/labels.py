"""Which of an entity's labels is preferred, and under which keys it is found."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import TypeVar

from groundwire.kg.index import CASED, LOWER_CASE
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.terms import Quad, is_iri, literal_parts
from groundwire.kg.text import key_of, squeeze
from groundwire.kg.words import LONGEST_KEY, is_cased

# Ranks of language and predicate, then the label itself: the smallest is taken, so that the choice never depends on the
# order of triples.
Preference = tuple[int, int, str]
Owner = TypeVar("Owner", str, int)
_NO_LANGUAGE = 1 << 20


class LabelRules:
    """The settings' predicates, ready to sort quads into names, descriptions, schema and evidence."""

    def __init__(self, settings: GraphSettings) -> None:
        self.names = {iri: rank for rank, iri in enumerate(settings.label_predicates)}
        self.alternatives = frozenset(settings.alternative_predicates)
        self.not_evidence = settings.naming_predicates
        self.schema_classes = frozenset(settings.schema_classes)
        self.descriptions = frozenset(settings.description_predicates)
        self._ranks = self.names | {iri: rank for rank, iri in enumerate(settings.description_predicates)}
        self._languages = {language.lower(): 2 * rank for rank, language in enumerate(settings.languages)}
        for language, rank in list(self._languages.items()):
            # Lookup of RFC 4647, section 3.4: who asks for pt-BR takes pt before another language.
            self._languages.setdefault(language.split("-")[0], rank + 1)
        self.fusing = frozenset(settings.fusion_predicates)

    def preference(self, predicate: str, literal: str) -> Preference | None:
        """How much the object of a naming triple is wanted as the label, or of a describing one as the description.

        The smallest is wanted most; None when it is empty.
        """
        value, _, language = literal_parts(literal)
        label = squeeze(value)
        if not label:
            return None
        rank = self._languages.get(language, self._languages.get(language.split("-")[0], _NO_LANGUAGE))
        # The language first: who reads English wants the English rdfs:label, not the German skos:prefLabel.
        return rank, self._ranks[predicate], label

    def schema_terms(self, quad: Quad) -> tuple[str, ...]:
        """The terms that a quad shows to be schema: its predicate, and the object (or subject) of rdf:type."""
        subject, predicate, obj, _ = quad
        if predicate != RDF_TYPE:
            return (predicate,)
        return (predicate, obj, subject) if obj in self.schema_classes else (predicate, obj)


_DIRECT, _ENTITY = "http://www.wikidata.org/prop/direct/", "http://www.wikidata.org/entity/"


def direct_properties(keys: Sequence[str]) -> range:
    """The places of Wikidata's direct properties (`wdt:P36`) among sorted terms."""
    return range(bisect_left(keys, _DIRECT), bisect_left(keys, _DIRECT[:-1] + chr(ord("/") + 1)))


def label_owner(key: str) -> str:
    """The term whose label a term without one goes by: `wd:P36` for Wikidata's direct `wdt:P36`, else itself."""
    return _ENTITY + key[len(_DIRECT) :] if key.startswith(_DIRECT) else key


def linkable(key: str) -> bool:
    """Whether a term of this string form can be an entity: only IRIs are."""
    return is_iri(key)


def prefer(chosen: dict[Owner, Preference], owner: Owner, preference: Preference | None) -> None:
    """Keep the better of what an owner has and what is offered."""
    if preference is not None and (owner not in chosen or preference < chosen[owner]):
        chosen[owner] = preference


def matched_key(label: str) -> str:
    """The key under which a label is found; empty when it has no word or too many."""
    key = key_of(label[:1024])
    return key if key.count(" ") < LONGEST_KEY else ""


def shape_of(label: str) -> int:
    """CASED or LOWER_CASE."""
    return CASED if is_cased(label) else LOWER_CASE


# Parts that more labels share are no names: first names, "United", "Company".
MOST_SHARED = 32
# A word in lower case counts from its second time on: once may be a slip.
COMMON = 2
# Words in lower case, as they stand in running text.
_LOWER_CASE = re.compile(r"(?<![^\W_])[^\W\d_]{2,}(?![^\W_])")
# A word with a capital in running text that stands beside no other one.
_ALONE = re.compile(r"(?:(?<=[a-z] )|(?<=[a-z], ))[A-Z][^\W\d_]+(?![^\W_])(?![ -][A-Z\d])")
ALONE = "^"  # marks such words among the counted ones; no folded word begins so


def lone_names(description: str) -> list[str]:
    """The words that a description uses as names of their own: with a capital, beside no other such word.

    They come folded, each after `ALONE`. "China" of "China Chopper" is one where texts speak of China, and "Lazarus" of
    "Lazarus Group" is none while they always write both words. Only capitals of ASCII are seen.
    """
    found = _ALONE.findall(description[:4096])
    return [ALONE + (word.lower() if word.isascii() else key_of(word)) for word in found]


def lower_case_words(text: str) -> list[str]:
    """The words of a text (of three words or more) that stand in lower case, folded."""
    if text.count(" ") < 2:
        return []
    found = [word for word in _LOWER_CASE.findall(text[:4096]) if word.islower()]
    return found if text.isascii() else [key_of(word) for word in found]
