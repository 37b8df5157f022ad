"""Attacks on the evidence beside a text: drop a triple, swap one for a false one, or add a false one (poison).

A false triple keeps subject and predicate and takes its object from other triples of the same predicate, so it reads
like any other; those that the evidence states anyway are left out. N pairs, C labels.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundwire.kg import Evidence, Term, verbalise

Floats = NDArray[np.float64]
Facts = Sequence[Evidence]
# (Text, evidence) pairs -> probabilities [N, C].
PredictPairs = Callable[[Sequence[tuple[str, Facts]]], Floats]
# Evidence -> other evidence to try.
Variants = Callable[[Facts], list[list[Evidence]]]
Pool = Mapping[str, Sequence[Term]]


@dataclass(frozen=True, slots=True)
class EvidenceResult:
    """What an attack found for one text: the labels before and after, the worst evidence, and pairs read."""

    label: int
    clean: int
    attacked: int
    confidence: float
    evidence: tuple[Evidence, ...]
    queries: int

    @property
    def robust(self) -> bool:
        """Whether the true label stood."""
        return self.attacked == self.label


def object_pool(evidence: Iterable[Facts]) -> dict[str, list[Term]]:
    """All objects of each predicate (IRI), each once, in the order in which they come."""
    pool: dict[str, dict[Term, None]] = {}
    for facts in evidence:
        for fact in facts:
            pool.setdefault(fact.predicate.value, {})[fact.object] = None
    return {predicate: list(objects) for predicate, objects in pool.items()}


def drop(evidence: Facts) -> list[list[Evidence]]:
    """Each variant lacks one triple."""
    return [[*evidence[:n], *evidence[n + 1 :]] for n in range(len(evidence))]


def swap(pool: Pool, most: int = 16, seed: int = 0) -> Variants:
    """Each variant has one triple replaced by a false one, in its place; at most `most` variants."""

    def variants(evidence: Facts) -> list[list[Evidence]]:
        return [[*evidence[:n], false, *evidence[n + 1 :]] for n, false in _false_triples(evidence, pool, most, seed)]

    return variants


def poison(pool: Pool, most: int = 16, seed: int = 0) -> Variants:
    """Each variant has one false triple before all true ones, as the most relevant; at most `most` variants."""

    def variants(evidence: Facts) -> list[list[Evidence]]:
        return [[false._replace(relevance=1.0), *evidence] for _, false in _false_triples(evidence, pool, most, seed)]

    return variants


def attack_evidence(
    predict: PredictPairs,
    pairs: Sequence[tuple[str, Facts]],
    labels: Sequence[int],
    variants: Variants,
    *,
    batch_size: int = 256,
) -> list[EvidenceResult]:
    """Try all variants of each pair's evidence; keep the worst.

    Args:
        predict: (text, evidence) pairs -> probabilities [N, C]. Nothing else is known of the model.
        pairs: texts with their evidence, in order of falling relevance.
        labels: their true labels.
        variants: `drop`, or what `swap` or `poison` gives.
        batch_size: most pairs in one call of `predict`.

    Returns:
        One result a pair, in order: the variant with a wrong label of highest confidence, else the one with the least
        probability of the true label.
    """
    asked: list[tuple[str, Facts]] = []
    owners: list[int] = []
    for n, (text, evidence) in enumerate(pairs):
        tried = [evidence, *variants(evidence)]
        asked += [(text, facts) for facts in tried]
        owners += [n] * len(tried)
    if not asked:
        return []
    answers = np.concatenate([predict(asked[n : n + batch_size]) for n in range(0, len(asked), batch_size)])
    owner = np.array(owners)
    results = []
    for n, label in enumerate(labels):
        mine = np.flatnonzero(owner == n)
        own = answers[mine]
        wrong = own.argmax(axis=1) != label
        # A wrong label outranks any probability of the true one.
        worst = int((np.where(wrong, 1.0 + own.max(axis=1), 0.0) - own[:, label]).argmax())
        attacked = int(own[worst].argmax())
        results.append(
            EvidenceResult(
                label, int(own[0].argmax()), attacked, float(own[worst, attacked]), tuple(asked[mine[worst]][1]),
                len(mine),
            )
        )  # fmt: skip
    return results


def _false_triples(evidence: Facts, pool: Pool, most: int, seed: int) -> list[tuple[int, Evidence]]:
    """False triples with the place of the true one, the most relevant triples in turn; the same for the same seed."""
    stated = {(fact.subject, fact.predicate, fact.object.label.casefold()) for fact in evidence}
    queues: list[list[tuple[int, Evidence]]] = []
    for place, fact in enumerate(evidence):
        others = [
            term
            for term in pool.get(fact.predicate.value, ())
            if (fact.subject, fact.predicate, term.label.casefold()) not in stated
        ]
        random.Random(f"{seed} {fact.text}").shuffle(others)
        queues.append([(place, _restate(fact, term)) for term in others[:most]])
    turns = [queue[turn] for turn in range(most) for queue in queues if turn < len(queue)]
    return turns[:most]


def _restate(fact: Evidence, term: Term) -> Evidence:
    return fact._replace(object=term, text=verbalise(fact.subject.label, fact.predicate.label, term.label))
