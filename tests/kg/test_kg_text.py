import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from groundwire.kg.stems import stem
from groundwire.kg.text import fold, key_of, split


def test_words_carry_their_place_in_the_text_as_given() -> None:
    text = "Zoë’s 😀 cafe\u0301: Em\u200botet, STRASSE und Straße"
    words = split(text)
    spans = [text[start:end] for start, end in zip(words.starts, words.ends, strict=True)]
    assert words.words == ["zoe", "s", "cafe", "emotet", "strasse", "und", "strasse"]
    assert spans == ["Zoë", "s", "cafe\u0301", "Em\u200botet", "STRASSE", "und", "Straße"]


def test_scripts_without_spaces_are_split_into_characters() -> None:
    assert split("東京は").words == ["東", "京", "は"]
    assert split("서울은").words == ["서", "울", "은"]
    assert split("ประเทศ").words == list("ประเทศ")
    assert split("हिन्दी भाषा").words[1:] == ["भाषा"]


def test_width_case_and_ligatures_fold_together() -> None:
    assert key_of("ＦＵＬＬ ﬁne İstanbul") == key_of("full fine istanbul")
    assert key_of("snake_case-name") == "snake case name"
    assert key_of("!!! …") == ""


@given(st.text())
def test_offsets_rise_and_stay_in_the_text(text: str) -> None:
    words = split(text)
    previous = 0
    for start, end in zip(words.starts, words.ends, strict=True):
        assert previous <= start < end <= len(text)
        previous = start
    assert " ".join(words.words) == key_of(text)


@given(st.text())
def test_folding_keeps_no_accents_and_maps_every_character(text: str) -> None:
    folded, origin = fold(text)
    assert not any(unicodedata.combining(c) for c in folded if not re.match("[\u3040-\u30ff]", c))
    if origin is not None:
        assert len(origin) == len(folded)
        assert origin == sorted(origin)


@given(st.text(alphabet="abcdefghij XYZ0123", max_size=40))
def test_the_ascii_way_and_the_unicode_way_agree(text: str) -> None:
    assert split(text).words == split(text + " é").words[:-1]


def test_stems_bring_forms_of_a_word_together() -> None:
    assert stem("directed") == stem("director") == stem("directing") == stem("direction")
    assert stem("released") == stem("release") == stem("releases")
    assert stem("born") == stem("birth")
    assert stem("seven") == stem("7") == stem("007")
    assert stem("the") == ""


def test_letters_that_only_look_the_same_are_read_as_the_word_they_fake() -> None:
    assert key_of("Еmоtеt") == "emotet"  # three Cyrillic letters
    assert key_of("Москва") == "москва"
    assert key_of("Ca?onero P@ris br\x8dwn") == "ca?onero p@ris br\x8dwn"
    assert key_of("Really?") == "really"
