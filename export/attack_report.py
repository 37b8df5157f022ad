"""Black-box attacks on a text model as it is served, summed up: characters, words, and the evidence beside the text."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from groundwire.export.attacks import Threat
from groundwire.export.attacks.text.characters import MOST_SPELLINGS, character_candidates
from groundwire.export.attacks.text.evidence import EvidenceResult, attack_evidence, drop, object_pool, poison, swap
from groundwire.export.attacks.text.greedy import Budget, PredictFor, TextResult, attack_texts_for
from groundwire.export.attacks.text.meaning import words_of
from groundwire.export.attacks.text.targets import Grounded
from groundwire.export.attacks.text.words import Synonyms, word_candidates
from groundwire.export.data import Example
from groundwire.export.errors import DataError
from groundwire.export.model import TextTask
from groundwire.export.progress import console
from groundwire.export.robustness import Report, attack_point, evidence_figures, text_figures
from groundwire.export.rows import Row, collate
from groundwire.kg import Retriever

TEXT_ATTACKS = ("characters", "words")


@dataclass(frozen=True, slots=True)
class Attacked:
    """What is attacked: examples with the numbers of their labels, and their places among all."""

    examples: Sequence[Example]
    labels: Sequence[int]
    places: Sequence[int]

    @classmethod
    def of(cls, examples: Sequence[Example], names: Sequence[str], limit: int = 0, seed: int = 0) -> "Attacked":
        """A sample of `limit` examples (0 for all), in their order.

        Raises:
            DataError: the model does not know a label.
        """
        strange = sorted({example.label for example in examples} - set(names))
        if strange:
            raise DataError(f"labels {strange} of the data are not among the model's {list(names)}: take other data.")
        places = list(range(len(examples)))
        if 0 < limit < len(examples):
            places = sorted(random.Random(seed).sample(places, limit))
        chosen = [examples[place] for place in places]
        return cls(chosen, [list(names).index(example.label) for example in chosen], places)


def vocabulary(tokenizer: bytes) -> set[str]:
    """The words that a tokenizer (`tokenizer.json`) knows whole, in lower case: real ones, for the most part."""
    tokens = Tokenizer.from_str(tokenizer.decode("utf-8")).get_vocab(with_added_tokens=False)
    return {word.casefold() for token in tokens if (word := token.lstrip("Ġ▁")).isalpha()}


def attack_served_text(
    name: str,
    predict: PredictFor,
    attacked: Attacked,
    retriever: Retriever | None,
    budget: Budget,
    kinds: Sequence[str] = TEXT_ATTACKS,
    most: int = MOST_SPELLINGS,
    known: Collection[str] = (),
) -> tuple[Report, Mapping[str, Sequence[TextResult]]]:
    """Attack texts by spelling and by words of the same meaning. Returns the report and each attack's results.

    Args:
        name: of the model.
        predict: the model (`Grounded.texts_for`, or `targets.served` for a server).
        attacked: the texts.
        retriever: the graph that other names of entities come from; None for the table of synonyms alone.
        budget: words and queries for each text.
        kinds: some of `TEXT_ATTACKS`.
        most: spellings tried for each word; more find holes in a defence that undoes most of them.
        known: words, in lower case, that a slip may not make, besides those of the texts; see `vocabulary`.
    """
    texts = [example.text for example in attacked.examples]
    known = {text[slice(*span)].casefold() for text in texts for span in words_of(text)} | set(known)
    results = {}
    for kind in kinds:
        console.print(f"{name}: attacking the {kind} of {len(texts)} texts")
        candidates = word_candidates(Synonyms(retriever)) if kind == "words" else character_candidates(known, most=most)
        results[kind] = attack_texts_for(predict, texts, attacked.labels, candidates, budget)
    threat = f"black-box, at most {budget.edits:.0%} of the words (one at least), {budget.queries} queries a text"
    return text_figures(name, threat, results), results


def attack_served_evidence(
    name: str, model: Grounded, attacked: Attacked, most: int = 16
) -> tuple[Report, Mapping[str, Sequence[EvidenceResult]]]:
    """Attack the evidence of texts: a triple dropped, exchanged for a false one, or a false one added before all.

    Args:
        name: of the model.
        model: the model with its graph; `entities` of the attacked texts, where given, replace linking.
        attacked: the texts.
        most: variants of each attack for a text.
    """
    given = model.entities
    pairs = [
        (example.text, model.evidence(example.text, None if given is None else given[n]))
        for n, example in enumerate(attacked.examples)
    ]
    pool = object_pool(evidence for _, evidence in pairs)
    results = {}
    for kind, variants in (("drop", drop), ("swap", swap(pool, most)), ("poison", poison(pool, most))):
        console.print(f"{name}: attacking the evidence of {len(pairs)} texts: {kind}")
        results[kind] = attack_evidence(model.pairs, pairs, attacked.labels, variants)
    return evidence_figures(name, f"black-box, one triple, the worst of {most} variants", results), results


def attack_embeddings(name: str, task: TextTask, rows: Sequence[Row], pad_id: int, threat: Threat) -> Report:
    """White-box attacks and masking checks on the word embeddings of rows, in one batch: memory grows with them.

    Args:
        name: of the model.
        task: the trained model, which stays as it is.
        rows: the attacked rows.
        pad_id: token id of padding.
        threat: radius, norm, steps.
    """
    batch = collate(rows, pad_id)
    trainable = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad():
            point = task.point(batch)
        console.print(f"{name}: attacking the embeddings of {len(rows)} texts")
        return attack_point(
            name, lambda at: task.logits(at, batch), point, batch.labels, threat, mask=task.mask(batch),
            epsilons=[threat.epsilon * share for share in (0.25, 0.5, 2.0, 4.0)],
        )  # fmt: skip
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
