"""Black-box attacks on texts and on evidence: they see probabilities only, never a model."""

from groundwire.export.attacks.text.characters import CHARACTER_EDITS, character_candidates
from groundwire.export.attacks.text.evidence import EvidenceResult, attack_evidence, drop, poison, swap
from groundwire.export.attacks.text.greedy import Budget, TextResult, attack_texts
from groundwire.export.attacks.text.meaning import protected_spans
from groundwire.export.attacks.text.words import Synonyms, word_candidates

__all__ = [
    "CHARACTER_EDITS",
    "Budget",
    "EvidenceResult",
    "Synonyms",
    "TextResult",
    "attack_evidence",
    "attack_texts",
    "character_candidates",
    "drop",
    "poison",
    "protected_spans",
    "swap",
    "word_candidates",
]
