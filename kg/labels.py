"""Which of an entity's labels is preferred, and under which keys it is found."""

from groundwire.kg.index import ALTERNATIVE, CASED, LABEL, LOWER_CASE
from groundwire.kg.settings import RDF_TYPE, GraphSettings
from groundwire.kg.terms import Quad, is_iri, literal_parts
from groundwire.kg.text import key_of, squeeze
from groundwire.kg.words import LONGEST_KEY, is_cased

# Preference, then the label itself: the smallest is taken, so that the choice never depends on the order of triples.
Preference = tuple[int, int, str]


class LabelRules:
    """The settings' predicates, ready to sort quads into names, descriptions, schema and evidence."""

    def __init__(self, settings: GraphSettings) -> None:
        self.names = {iri: rank for rank, iri in enumerate(settings.label_predicates)}
        self.alternatives = frozenset(settings.alternative_predicates)
        self.not_evidence = settings.naming_predicates
        self.schema_classes = frozenset(settings.schema_classes)
        self._languages = {language: rank for rank, language in enumerate(settings.languages)}

    def preference(self, predicate: str, literal: str) -> Preference | None:
        """How much a label triple's object is wanted as the label (smallest first); None when it is empty."""
        value, _, language = literal_parts(literal)
        label = squeeze(value)
        if not label:
            return None
        rank = self._languages.get(language, self._languages.get(language.split("-")[0], len(self._languages)))
        return self.names[predicate], rank, label

    def schema_terms(self, quad: Quad) -> tuple[str, ...]:
        """The terms that a quad shows to be schema: its predicate, and the object (or subject) of rdf:type."""
        subject, predicate, obj, _ = quad
        if predicate != RDF_TYPE:
            return (predicate,)
        return (predicate, obj, subject) if obj in self.schema_classes else (predicate, obj)


def linkable(key: str) -> bool:
    """Whether a term of this string form can be an entity: only IRIs are."""
    return is_iri(key)


def matched_key(label: str) -> str:
    """The key under which a label is found; empty when it has no word or too many."""
    key = key_of(label[:1024])
    return key if key.count(" ") < LONGEST_KEY else ""


def shape_of(label: str) -> int:
    """CASED or LOWER_CASE."""
    return CASED if is_cased(label) else LOWER_CASE


def better_posting(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """Of two (kind, shape) of one entity under one key, the one that counts."""
    return min(one, other)


__all__ = ["ALTERNATIVE", "LABEL", "LabelRules", "Preference", "better_posting", "linkable", "matched_key", "shape_of"]
