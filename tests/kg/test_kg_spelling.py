"""Names as people and attackers misspell them: found all the same, on both retrievers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.kg import CompiledRetriever, Retriever, compile_graph, open_graph
from groundwire.kg.spell import deletions, neighbours

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


@given(st.text(alphabet="abcdef", min_size=4, max_size=12), st.integers(0, 1 << 32))
def test_one_slip_is_always_found_by_a_common_form(word: str, seed: int) -> None:
    rng = random.Random(seed)
    place, letter = rng.randrange(len(word)), rng.choice("abcdef")
    slips = {
        word[:place] + word[place + 1 :],
        word[:place] + letter + word[place:],
        word[:place] + letter + word[place + 1 :],
        word[:place] + word[place : place + 2][::-1] + word[place + 2 :],
    }
    for slip in slips - {word}:
        assert neighbours(slip, word)
        assert neighbours(word, slip)
        assert set(deletions(slip)) & set(deletions(word))
