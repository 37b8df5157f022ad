"""Triples in words, short in tokens: what a model reads beside the text."""

from collections.abc import Iterable
from functools import lru_cache

from groundwire.kg.text import squeeze
from groundwire.kg.types import Evidence

LONGEST_LABEL = 300


def verbalise(subject: str, predicate: str, obj: str) -> str:
    """One triple in words from its labels: `In Rainbows Genre: art rock`. Long objects are cut at 300 code points."""
    return f"{shorten(subject)} {shorten(predicate)}: {shorten(obj)}"


def verbalise_evidence(evidence: Iterable[Evidence]) -> list[str]:
    """Evidence in words, triples of one subject, predicate and graph together: `In Rainbows Genre: art rock, art pop`.

    A group stands where its most relevant triple stood; values that read the same are said once.
    """
    groups: dict[tuple[str, str, str], list[Evidence]] = {}
    for fact in evidence:
        groups.setdefault((fact.subject.value, fact.predicate.value, fact.graph), []).append(fact)
    lines = []
    for facts in groups.values():
        values = dict.fromkeys(shorten(fact.object.label) for fact in facts)
        lines.append(f"{shorten(facts[0].subject.label)} {shorten(facts[0].predicate.label)}: {', '.join(values)}")
    return list(dict.fromkeys(lines))


def shorten(label: str) -> str:
    """A label on one line, cut at 300 code points."""
    return _shorten(label[: 16 * LONGEST_LABEL])  # a literal may be a book


@lru_cache(maxsize=4096)  # labels of predicates and frequent values
def _shorten(label: str) -> str:
    label = squeeze(label)
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1].rstrip() + "…"
