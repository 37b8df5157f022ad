"""Training rows as an attacker or a careless writer would leave them: texts misspelt, evidence missing or poisoned.

Each epoch draws anew which rows are changed and how, from (seed, epoch) alone, so that a build can be resumed. Labels
stay: a slip of spelling and a false triple among true ones must not change what the model says. The exception is a
share of rows that lose all evidence and get the neutral label, which teaches that without knowledge nothing is decided,
however a text sounds. Random edits of the
attacks' own kinds teach the kinds, not the texts that a search would find (Jones et al. 2020 discuss the difference).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from groundwire.export.attacks.text.characters import character_candidates
from groundwire.export.attacks.text.evidence import Pool, poison, swap
from groundwire.export.attacks.text.greedy import Budget
from groundwire.export.attacks.text.words import Synonyms, word_candidates
from groundwire.export.data import Example
from groundwire.export.progress import track
from groundwire.export.rows import Row
from groundwire.export.settings import AugmentSettings
from groundwire.kg import Evidence, Retriever
from groundwire.kg.encode import PairEncoder

# A text and the entities of its example -> evidence.
Ground = Callable[[str, Example], tuple[Evidence, ...]]
_SLIPS = 0.8  # share of the edited texts that are misspelt; the others get other words


class Augmenter:
    """Changed rows for a share of the examples.

    Args:
        examples: those of the training data, in the order of their rows.
        rows: their rows as they are.
        encoder: of the rows.
        ground: gives the evidence of a text as the rows have it.
        pool: objects by predicate that false triples are made of (`attacks.text.evidence.object_pool`).
        retriever: where other names of entities come from; None for the table of synonyms alone.
        settings: shares of the rows.
        dropout: share of the rows that lose all evidence.
        seed: of all choices.
        neutral: number of the label that rows get when they lose all evidence to `settings.unknown`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        rows: Sequence[Row],
        encoder: PairEncoder,
        ground: Ground,
        pool: Pool,
        retriever: Retriever | None,
        settings: AugmentSettings,
        dropout: float,
        seed: int,
        neutral: int = 0,
    ) -> None:
        self.examples, self.rows, self.encoder, self.ground = examples, rows, encoder, ground
        self.pool, self.settings, self.dropout, self.seed, self.neutral = pool, settings, dropout, seed, neutral
        known = {word.casefold() for example in examples for word in example.text.split()} if settings.edit else set()
        self.slips = character_candidates(known)
        self.words = word_candidates(Synonyms(retriever)) if settings.edit else _nothing

    def epoch(self, epoch: int) -> Mapping[int, Row]:
        """The rows that differ in an epoch, by their place."""
        chance = random.Random(f"{self.seed} augment {epoch}")
        changed = {}
        for place in track(range(len(self.rows)), f"augment: epoch {epoch + 1}"):
            edit, poisoned, bare = (
                chance.random() < share for share in (self.settings.edit, self.settings.poison, self.dropout)
            )
            own = random.Random(chance.random())
            # Drawn from the row's own numbers, so that the other choices don't depend on this share.
            unknown = bool(self.settings.unknown) and own.random() < self.settings.unknown
            if edit or poisoned or bare or unknown:
                row = self._row(place, edit, poisoned, bare or unknown, own)
                changed[place] = replace(row, label=self.neutral) if unknown else row
        return changed

    def _row(self, place: int, edit: bool, poisoned: bool, bare: bool, chance: random.Random) -> Row:
        example, row = self.examples[place], self.rows[place]
        text = self._edited(example.text, chance) if edit else example.text
        evidence: Sequence[Evidence] = () if bare else self.ground(text, example)
        if poisoned and evidence:
            variants = chance.choice((poison, swap))(self.pool, seed=chance.getrandbits(32))(evidence)
            evidence = chance.choice(variants) if variants else evidence
        pair = self.encoder.encode(text, evidence)
        return Row(pair.ids, pair.type_ids, row.label, row.index)

    def _edited(self, text: str, chance: random.Random) -> str:
        """The text with as many of its words changed as the attacks' budget allows, from the last to the first."""
        candidates = self.slips if chance.random() < _SLIPS else self.words
        spans = {span: options for span, options in candidates(text).items() if options}
        for start, end in sorted(chance.sample(sorted(spans), min(len(spans), Budget().words(text))), reverse=True):
            options = self._felt(text[start:end], spans[start, end])
            if options:
                text = text[:start] + chance.choice(options) + text[end:]
        return text

    def _felt(self, word: str, options: Sequence[str]) -> Sequence[str]:
        """The spellings that the encoder's normalisation does not undo: what it undoes teaches nothing."""
        normalise = self.encoder.normaliser
        if normalise is None:
            return options
        return [option for option in options if normalise(option).casefold() != normalise(word).casefold()]


def _nothing(_text: str) -> Mapping[tuple[int, int], Sequence[str]]:
    return {}
