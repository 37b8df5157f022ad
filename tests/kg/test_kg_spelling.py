"""Names as people and attackers misspell them: found all the same, on both retrievers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.kg import CompiledRetriever, Retriever, compile_graph, open_graph
from groundwire.kg.spell import deletions, nearest, neighbours

E = "http://example.org/"
NAMES = {"emotet": "Emotet", "bazarloader": "BazarLoader", "chopper": "China Chopper", "agent": "Agent Tesla"}


@pytest.fixture(params=["compiled", "rdflib"], scope="module")
def malware(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp(f"malware-{request.param}")
    source = folder / "malware.nt"
    label = "<http://www.w3.org/2000/01/rdf-schema#label>"
    source.write_text("".join(
        f'<{E}{name}> {label} "{title}" .\n<{E}{name}> <{E}platform> "Windows" .\n' for name, title in NAMES.items()
    ))  # fmt: skip
    return open_graph(source) if request.param == "rdflib" else CompiledRetriever(compile_graph(source, folder / "out"))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Emotte", "emotet"),  # swapped
        ("Emottet", "emotet"),  # doubled
        ("Emtet", "emotet"),  # left out
        ("Emojtet", "emotet"),  # put in
        ("Emofet", "emotet"),  # changed
        ("mEotet", "emotet"),  # the first letters swapped
        ("Еmоtеt", "emotet"),  # Cyrillic letters
        ("Ｅｍｏｔｅｔ", "emotet"),  # full width
        ("E\u200bmo\u200dtet", "emotet"),  # zero width
        ("E\u00admotet", "emotet"),  # soft hyphen
        ("Émötet", "emotet"),  # accents
        ("Bazar Loader", "bazarloader"),  # split
        ("Bazar-Loader", "bazarloader"),
        ("ChinaChopper", "chopper"),  # joined
        ("China_Chopper", "chopper"),
        ("Chian Chopper", "chopper"),
        ("Chian Choper", "chopper"),  # one slip in each word
        ("Agnet Telsa", "agent"),
        ("Em\u200bоtte", "emotet"),  # zero width, Cyrillic, and swapped
        ("BzaarLoadr", "bazarloader"),  # two slips in one long word: swapped and left out
        ("BazzarLoadeer", "bazarloader"),  # doubled twice
        ("BzrLoader", "bazarloader"),  # two left out
        ("BaxarLoafer", "bazarloader"),  # two changed
    ],
)
def test_disguised_names_are_found(malware: Retriever, written: str, name: str) -> None:
    text = f"They sent {written} by mail."
    mentions = malware.link(text)
    assert [mention.entity for mention in mentions] == [E + name]
    assert mentions[0].text == written


@pytest.mark.parametrize("written", ["Emoffte", "Remote", "Emo", "Loader Bazar Chopin"])
def test_other_words_are_not(malware: Retriever, written: str) -> None:
    assert all(mention.entity != E + "emotet" for mention in malware.link(f"They sent {written} by mail."))


def spellings(word: str, table: list[str], known: bool = False) -> list[tuple[int, str]]:
    """The nearest words of a table, found by their common forms alone."""
    forms: dict[str, set[str]] = {}
    for one in table:
        for form in deletions(one):
            forms.setdefault(form, set()).add(one)

    def look_up(words: list[str], shortest_for_two: int) -> list[set[str]]:
        return [{one for form in deletions(word, shortest_for_two) for one in forms.get(form, ())} for word in words]

    return nearest([word], look_up, lambda _: known)[0]


def slips_of(word: str, rng: random.Random) -> set[str]:
    place, letter = rng.randrange(len(word)), rng.choice("abcdef")
    slips = {
        word[:place] + word[place + 1 :],
        word[:place] + letter + word[place:],
        word[:place] + letter + word[place + 1 :],
        word[:place] + word[place : place + 2][::-1] + word[place + 2 :],
    }
    return slips - {word}


@given(st.text(alphabet="abcdef", min_size=4, max_size=12), st.integers(0, 1 << 32))
def test_one_slip_is_always_found_by_a_common_form(word: str, seed: int) -> None:
    for slip in slips_of(word, random.Random(seed)):
        assert neighbours(slip, word)
        assert neighbours(word, slip)
        assert spellings(slip, [word]) == [(1, word)]


@given(st.text(alphabet="abcdef", min_size=8, max_size=14), st.integers(0, 1 << 32))
def test_two_slips_apart_in_a_long_word_are_found(word: str, seed: int) -> None:
    rng = random.Random(seed)
    half = len(word) // 2
    for first in slips_of(word[: half - 1], rng):
        for second in slips_of(word[half + 1 :], rng):
            slip = first + word[half - 1 : half + 1] + second
            found = spellings(slip, [word])
            assert found == ([] if slip == word else [(found[0][0], word)])
            assert not found or found[0][0] in {1, 2}


def test_the_nearest_spelling_wins_and_a_known_word_has_none() -> None:
    assert spellings("reykavik", ["reykjavik", "keykavok"]) == [(1, "reykjavik")]
    assert spellings("reykjavik", ["reykjavik", "reykjavic"]) == []
    assert spellings("abcdefgh", ["abcdxxxh"]) == []
    assert spellings("muontian", ["mountain"]) == [(2, "mountain")]
    assert spellings("muontian", ["mountain"], known=True) == [], "it is a word that the graph knows"
    assert spellings("plan24567", ["plan24578"]) == [], "another number is another code"
