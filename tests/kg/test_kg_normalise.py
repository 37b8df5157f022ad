"""Texts put right before the tokenizer: what is folded and corrected, and what stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from groundwire.kg.encode import PairEncoder
from groundwire.kg.known_words import SURE, KnownWords
from groundwire.kg.lookalikes import fold_lookalikes
from groundwire.kg.normalise import FREQUENT, Normaliser
from groundwire.kg.types import Evidence, Term
from groundwire.protected_words import PROTECTED

COUNTS = {
    "the": 900, "of": 800, "is": 700, "born": 400, "population": 200, "country": 150, "capital": 120, "where": 90,
    "were": 80, "band": 60, "west": 50, "country's": 0, "place": 40, "million": 30, "bon": 1, "wet": 1, "not": 300,
    "before": 90, "sport": 20, "sort": 10,
}  # fmt: skip
WORDS = KnownWords({word: count for word, count in COUNTS.items() if count})
NORMALISE = Normaliser(WORDS)


def states(*labels: str) -> list[Evidence]:
    term = Term("iri", "http://x/p", "place")
    return [Evidence(term, term, Term("literal", label, label), "", label, 0.5) for label in labels]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("The popluation of the cuontry", "The population of the country"),  # swapped
        ("the popullation", "the population"),  # doubled
        ("the popultion", "the population"),  # dropped
        ("the poppulation OF", "the population OF"),
        ("the pop ulation of", "the population of"),  # spaced
        ("the po pulation of", "the population of"),
        ("the p\u200bopulation", "the population"),  # a space without width
        ("the рорulаtіоn", "the population"),  # Cyrillic
        ("the popul@tion", "the population"),
        ("was bon", "was born"),  # a word, but a rare one beside a frequent one
        ("WSET", "WEST"),
        ("Popluation", "Population"),
    ],
)
def test_slips_are_put_right(written: str, meant: str):
    assert NORMALISE(written) == meant


@pytest.mark.parametrize(
    "text",
    [
        "wet",  # rare, and its neighbour "west" is not frequent enough to be meant
        "the popluation2 of p0pulation",  # digits
        "bon's country's",  # apostrophes
        "nt befor nto",  # nothing becomes a negation or a comparison
        "www.cuontry.example me@cuontry",  # addresses
        "zyxwvu",  # near to nothing
        "12,345 km/h",
    ],
)
def test_what_is_no_slip_stays(text: str):
    assert NORMALISE(text) == text


def test_words_of_the_evidence_are_known_and_come_first():
    assert NORMALISE("a cuontre") == "a cuontre"
    assert NORMALISE("Marai of sporr", states("Maria", "sporo")) == "Maria of sporo"
    assert NORMALISE("cuontry", states("Cuontry Town")) == "cuontry"
    assert NORMALISE("Mar ia", states("Maria")) == "Maria"


def test_texts_of_other_scripts_stay():
    for text in ("Москва – столица России", "Он сказал hello", "Η Αθήνα", "α of 0.05 is β", "می‌خواهم", "東京は"):
        assert fold_lookalikes(text) == text


def test_look_alikes_in_latin_texts_are_folded():
    assert fold_lookalikes("Тhе Ѕydney НОРЕ") == "The Sydney HOPE"
    assert fold_lookalikes("𝐁razil ｉｓ ﬁne, 5 m² and ½") == "Brazil is fine, 5 m² and ½"
    assert fold_lookalikes("Zoë, Ångström, Łódź") == "Zoë, Ångström, Łódź"


WRITTEN = st.text(alphabet="abornwestpulaioncy thеорас\u200b@'1.", max_size=40)


@given(WRITTEN)
def test_twice_is_as_good_as_once(text: str):
    once = NORMALISE(text)
    assert NORMALISE(once) == once


@given(st.lists(st.sampled_from([word for word in WORDS.words if WORDS.counts[word] >= SURE]), max_size=12))
def test_known_words_stay(words: list[str]):
    text = " ".join(words)
    assert NORMALISE(text) == text


@given(st.lists(st.one_of(st.sampled_from(sorted(PROTECTED)), WRITTEN, st.integers().map(str)), max_size=8))
def test_numbers_negations_and_comparisons_are_the_same_after(parts: list[str]):
    text = fold_lookalikes(" ".join(parts))

    def fixed(words: str) -> list[str]:
        return [word for word in words.split() if word in PROTECTED or any(c.isdigit() for c in word)]

    assert fixed(NORMALISE(text)) == fixed(text)


def test_words_are_counted_and_kept_in_a_file():
    known = KnownWords.of(["The band is born", "A band, born Élan"], {"band": 3, "##ing": 1, "the": 2, "xyz": 9})
    assert known.counts == {"band": 3, "born": 2, "the": 2, "is": 1, "a": 1, "elan": 1, "xyz": 1}
    again = KnownWords.from_bytes(known.to_bytes())
    assert (again.words, again.counts) == (known.words, known.counts)
    marked = KnownWords.of([], {"\u0120bird": 4, "\u0120the": 1, "ing": 0})
    assert list(marked.words) == ["the", "bird"]
    assert FREQUENT > SURE


@pytest.mark.parametrize("content", [b"x\tword\n", b"1 word\n", b"1\tWord\n", b"0\tword\n", b"1\ta\n1\ta\n", b"\xff\n"])
def test_a_file_of_something_else_is_refused(content: bytes):
    with pytest.raises(ValueError, match=r"line|folded word|decode"):
        KnownWords.from_bytes(content)


def test_the_tokenizer_reads_the_text_put_right():
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {w: n + 4 for n, w in enumerate(WORDS.words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    content = tokenizer.to_str().encode()
    given_, right = PairEncoder(content, 32), PairEncoder(content, 32, NORMALISE)
    assert right.encode("the popluation", ()) == given_.encode("the population", ())
    assert given_.encode("the popluation", ()) != given_.encode("the population", ())
    facts = states("million", "cuontry")
    leaving_out = right.encode("a cuontry", facts[:1], facts)
    assert leaving_out == given_.encode("a cuontry", facts[:1])
    assert leaving_out != right.encode("a cuontry", facts[:1])
