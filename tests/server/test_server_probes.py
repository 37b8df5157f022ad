"""Perturbed copies change a few letters and nothing that matters."""

import difflib
import re

from hypothesis import given
from hypothesis import strategies as st

from groundwire.kg import Candidate, Mention
from groundwire.protected_words import PROTECTED
from groundwire.server.probes import perturb

WORDS = [
    "Paris",
    "capital",
    "not",
    "never",
    "seven",
    "2,100,000",
    "12th",
    "don't",
    "well-known",
    "France",
    "population",
]
TEXT = st.lists(st.sampled_from([*WORDS, "größer", "über", "note", "nothing"]), min_size=1, max_size=40).map(" ".join)


def mention(text: str, word: str) -> list[Mention]:
    return [
        Mention(m.start(), m.end(), word, (Candidate("urn:a:b", word, 1.0),)) for m in re.finditer(rf"\b{word}\b", text)
    ]


@given(TEXT, st.integers(0, 32))
def test_numbers_negations_and_mentions_stay(text: str, count: int) -> None:
    mentions = mention(text, "France")
    copies = perturb(text, mentions, count)
    assert len(copies) <= count
    assert len(set(copies)) == len(copies)
    assert text not in copies
    fixed = re.compile(r"\d|'|-")
    words = text.split(" ")
    for copy in copies:
        changed = copy.split(" ")
        assert len(changed) == len(words)
        for before, after in zip(words, changed, strict=True):
            if before == "France" or before.casefold() in PROTECTED or fixed.search(before):
                assert after == before
            else:
                assert after.casefold() not in PROTECTED
                assert abs(len(after) - len(before)) <= 1
                assert difflib.SequenceMatcher(None, before, after).ratio() > 0.7


@given(TEXT)
def test_the_same_text_gives_the_same_copies(text: str) -> None:
    assert perturb(text, [], 8) == perturb(text, [], 8)
    assert perturb(text, [], 8)[:3] == perturb(text, [], 3)


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_at_all(text: str) -> None:
    assert len(perturb(text, [], 4)) <= 4


def test_copies_come_when_there_are_words() -> None:
    copies = perturb("The population of the capital grows quickly", [], 32)
    assert len(copies) == 32
    assert perturb("Paris", mention("Paris", "Paris"), 5) == []
    assert perturb("not 7 or so", [], 5) == []
