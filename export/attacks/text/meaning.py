"""What a text attack leaves alone, because changing it would change what the text says."""

import re
from functools import lru_cache

_NEGATIONS = """no not nor non none never nothing nobody nowhere neither without cannot cant wont dont doesnt didnt isnt
    arent wasnt werent hasnt havent hadnt shouldnt wouldnt couldnt false untrue deny denies denied lack lacks lacked
    except unless hardly barely rarely seldom nicht kein keine keiner nie ohne pas jamais sans nunca sin ningun"""
_NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand
    thousands million millions billion billions trillion dozen dozens half quarter third fourth fifth sixth seventh
    eighth ninth tenth first second once twice thrice single double triple both
    couple decade decades century centuries"""
_COMPARISONS = """more less most least fewer fewest few many much all every each some any only over under above below
    before after until since between during than same different other another"""
PROTECTED = frozenset(f"{_NEGATIONS} {_NUMBERS} {_COMPARISONS}".split())

# A word is letters, with apostrophes and hyphens inside ("don't", "well-known"); digits make it a number or a code.
WORD = re.compile(r"[^\W_]+(?:['’.,:/-][^\W_]+)*")
_LETTERS = re.compile(r"[^\W\d_]+")


@lru_cache(maxsize=65_536)  # an attack asks for the same words again and again
def is_protected(word: str) -> bool:
    """Whether a word may not change: it holds a digit or an apostrophe, or any part is a number or a negation.

    Words that compare or count ("more", "before", "only") are left alone too.
    """
    if any(character.isdigit() or character in "'’" for character in word):
        return True
    return any(part.casefold() in PROTECTED for part in _LETTERS.findall(word))


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of each word, code points."""
    return [match.span() for match in WORD.finditer(text)]


def protected_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each word that no attack may change."""
    return [(start, end) for start, end in words_of(text) if is_protected(text[start:end])]


def fixed_words(text: str) -> list[str]:
    """The protected words, in order: two texts with other ones do not say the same."""
    return [text[start:end] for start, end in protected_spans(text)]


def keeps_meaning(before: str, after: str) -> bool:
    """Whether numbers, negations and words that compare are the same, in the same order, none added."""
    return fixed_words(before) == fixed_words(after)
