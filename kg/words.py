"""The words of a label that are compared with a text: distinct stems, in the order in which they stand."""

from groundwire.kg.stems import stem
from groundwire.kg.text import key_of

# Longer labels are texts; their first words say what they are about, and no hub of words can slow a ranking down.
LONGEST_LABEL = 64
# An entity's label may have this many words and be found in a text.
LONGEST_KEY = 16


def stems_of(key: str) -> list[str]:
    """Distinct stems of a folded label, stop words left out, of its first 64 words."""
    stems: dict[str, None] = {}
    for word in key.split(" ")[:LONGEST_LABEL]:
        if word:
            reduced = stem(word)
            if reduced:
                stems[reduced] = None
    return list(stems)


def label_stems(label: str) -> list[str]:
    """Distinct stems of a label as it stands in the graph."""
    return stems_of(key_of(label[:2048]))


def is_cased(label: str) -> bool:
    """Whether the label has a capital letter, so that its case tells a name from a common word."""
    return label != label.lower()
