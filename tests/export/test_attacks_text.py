"""Text attacks: what they may change, their budgets, and their strength on models whose weak spot is known."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.export.attacks.text import (
    CHARACTER_EDITS,
    Budget,
    Synonyms,
    attack_evidence,
    attack_texts,
    character_candidates,
    drop,
    poison,
    protected_spans,
    swap,
    word_candidates,
)
from groundwire.export.attacks.text.evidence import object_pool
from groundwire.export.attacks.text.greedy import attack_texts_for
from groundwire.export.attacks.text.meaning import keeps_meaning
from groundwire.export.attacks.text.words import read_table
from groundwire.kg import Evidence, Retriever, Term, compile_graph, open_graph

GRAPH = """
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix e: <http://e.example/> .
e:prog skos:prefLabel "progressive rock" ; skos:altLabel "prog rock" .
e:band skos:prefLabel "Radiohead Ensemble" ; skos:altLabel "On A Friday", "Band 17" ; e:genre e:prog .
e:other skos:prefLabel "Prog Rock" ; e:genre e:jazz .
e:jazz skos:prefLabel "jazz music" ; skos:altLabel "swing jazz" ; e:genre e:other .
e:genre skos:prefLabel "genre" .
"""


@pytest.fixture(scope="module")
def retriever(tmp_path_factory) -> Retriever:
    folder = tmp_path_factory.mktemp("aliases")
    (folder / "graph.ttl").write_text(GRAPH, encoding="utf-8")
    compile_graph([folder / "graph.ttl"], folder / "graph")
    return open_graph(folder / "graph")


class Keyword:
    """Says 1 as long as a text holds a word; the other words count a little."""

    def __init__(self, word: str) -> None:
        self.word, self.texts = word, 0

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += len(texts)
        p = np.array([0.9 if self.word in text else 0.2 + 0.001 * len(text) % 0.1 for text in texts])
        return np.stack([1 - p, p], axis=1)


@pytest.mark.parametrize("edit", list(CHARACTER_EDITS))
def test_every_edit_fools_a_model_that_hangs_on_one_word(edit):
    model = Keyword("wonderful")
    text = "That was a truly wonderful evening for everybody who came along there"
    (result,) = attack_texts(model, [text], [1], character_candidates(edits=[edit]))
    assert not result.robust
    assert result.edits == 1
    assert "wonderful" not in result.text
    assert result.queries == model.texts <= 200
    changed = [(a, b) for a, b in zip(text.split(), result.text.split(), strict=False) if a != b]
    assert changed[0][0] == "wonderful"


def test_a_word_that_a_defence_puts_right_does_not_use_the_budget_up():
    """The model rests most on "evening" but reads through its slips, but for what rounding takes."""
    text = "A wonderful evening for them all"

    def model(texts: Sequence[str]) -> np.ndarray:
        def true_label(asked: str) -> float:
            if len(asked) < len(text):
                return 0.8 if "evening" in asked else 0.6
            return 0.2 if "wonderful" not in asked else 0.8 if "evening" in asked else 0.79

        p = np.array([true_label(asked) for asked in texts])
        return np.stack([1 - p, p], axis=1)

    (result,) = attack_texts(model, [text], [1], character_candidates(edits=["swap"]))
    assert (result.robust, result.edits) == (False, 1)
    assert "evening" in result.text


def test_budgets_hold():
    texts = ["the quick brown foxes jumped over several sleeping hounds yesterday evening near London"] * 3

    def stubborn(asked: Sequence[str]) -> np.ndarray:
        return np.array([[0.1, 0.9 - 0.001 * sum(c not in texts[0] for c in text)] for text in asked])

    for budget in (Budget(0.15, 200), Budget(0.4, 60), Budget(0.01, 5), Budget(0.5, 1)):
        counted: list[int] = []

        def counting(asked: Sequence[str], owners: Sequence[int], counted: list[int] = counted) -> np.ndarray:
            counted.extend(owners)
            return stubborn(asked)

        results = attack_texts_for(counting, texts, [1] * 3, character_candidates(), budget, batch_size=7)
        for n, result in enumerate(results):
            assert result.robust
            assert result.queries == counted.count(n) <= budget.queries
            words = sum(a != b for a, b in zip(texts[0].split(), result.text.replace("  ", " ").split(), strict=False))
            assert result.edits <= budget.words(texts[0])
            assert words >= result.edits
    assert Budget(0.15).words("one two three") == 1


def test_more_edits_never_help_the_model():
    rng = np.random.default_rng(0)
    weights: dict[str, float] = {}

    def bag(asked: Sequence[str]) -> np.ndarray:
        logits = [sum(weights.setdefault(w, float(rng.normal())) for w in text.split()) for text in asked]
        p = 1 / (1 + np.exp(-np.array(logits)))
        return np.stack([1 - p, p], axis=1)

    words = ["rivers", "mountains", "valleys", "cities", "people", "music", "painting", "science", "history"]
    texts = [" ".join(rng.choice(words, 10)) for _ in range(16)]
    labels = bag(texts).argmax(axis=1).tolist()
    stood = [
        sum(r.robust for r in attack_texts(bag, texts, labels, character_candidates(), budget))
        for budget in (Budget(0.1, 150), Budget(0.3, 150), Budget(1.0, 150))
    ]
    assert stood == sorted(stood, reverse=True)
    assert stood[0] > stood[-1]


def test_texts_that_are_wrong_already_cost_one_query():
    (result,) = attack_texts(Keyword("absent"), ["nothing here"], [1], character_candidates())
    assert (result.clean, result.attacked, result.queries, result.text) == (0, 0, 1, "nothing here")


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abcnot twohre'1 éß漢-.,", max_size=60))
def test_candidates_never_touch_numbers_and_negations(text):
    table = Synonyms()
    for candidates in (character_candidates(), word_candidates(table)):
        for (start, end), options in candidates(text).items():
            assert not any(s < end and start < e for s, e in protected_spans(text))
            for option in options:
                assert option != text[start:end]
                assert keeps_meaning(text, text[:start] + option + text[end:])


def test_what_is_protected_and_what_slips_may_not_make():
    text = "He didn't win 3 prizes, never twice; twenty-one of them in 1990s more than U2"
    spans = [text[a:b] for a, b in protected_spans(text)]
    assert spans == ["didn't", "3", "never", "twice", "twenty-one", "1990s", "more", "than", "U2"]
    found = character_candidates(most=100)("noted fonte")
    assert not any("not" in option.split() for options in found.values() for option in options)
    slips = character_candidates(known_words={"form", "fro"}, edits=["swap", "drop"], most=100)("from")
    assert "form" not in slips[0, 4]


def test_synonyms_of_the_table_are_consistent():
    seen: set[str] = set()
    for group in read_table():
        assert len(group) == 2
        for word in group:
            assert keeps_meaning("", word), word
        assert not seen & {group[0]}
        seen |= {group[0]}


def test_words_are_exchanged_and_names_are_left_whole(retriever):
    text = "The film about progressive rock began with Radiohead Ensemble, not jazz music"
    found = {text[a:b]: list(options) for (a, b), options in word_candidates(Synonyms(retriever))(text).items()}
    assert found["film"] == ["movie"]
    assert found["began"] == ["started"]
    assert found["Radiohead Ensemble"] == ["On A Friday"]  # "Band 17" would bring a number in
    assert "progressive rock" not in found  # "prog rock" names another entity too
    assert found["jazz music"] == ["swing jazz"]
    assert not {"not", "rock", "Ensemble"} & set(found)
    plain = word_candidates(Synonyms(retriever, aliases=False))(text)
    assert {text[a:b] for a, b in plain} == {"film", "began"}
    (result,) = attack_texts(Keyword("film"), [text], [1], word_candidates(Synonyms(retriever)))
    assert result.text == text.replace("film", "movie")


def fact(subject: str, predicate: str, value: str) -> Evidence:
    def term(name: str) -> Term:
        return Term("iri", f"http://e.example/{name}", name)

    return Evidence(term(subject), term(predicate), term(value), "", f"{subject} {predicate}: {value}", 0.5)


TRUE = [fact("a", "colour", "red"), fact("a", "size", "large")]
POOL = object_pool([TRUE, [fact("b", "colour", "blue"), fact("b", "size", "tiny"), fact("c", "colour", "Red")]])


def test_false_triples_are_false_and_look_like_true_ones():
    for variants in (swap(POOL), poison(POOL)):
        for evidence in variants(TRUE):
            (false,) = [f for f in evidence if f not in TRUE]
            assert (false.subject.label, false.predicate.label, false.object.label) in {
                ("a", "colour", "blue"),
                ("a", "size", "tiny"),
            }
            assert false.text == f"a {false.predicate.label}: {false.object.label}"
    assert [len(e) for e in poison(POOL)(TRUE)] == [3, 3]
    assert [len(e) for e in swap(POOL)(TRUE)] == [2, 2]
    assert [[f.object.label for f in e] for e in drop(TRUE)] == [["large"], ["red"]]
    assert drop([]) == swap(POOL)([]) == poison(POOL)([]) == []
    assert len(poison(POOL, most=1)(TRUE)) == 1


def test_evidence_attacks_find_what_a_credulous_model_believes():
    def credulous(pairs) -> np.ndarray:
        p = np.array([0.8 if next((f for f in e if f.predicate.label == "colour"), None) == TRUE[0] else 0.3
                      for _, e in pairs])  # fmt: skip
        return np.stack([1 - p, p], axis=1)

    pairs = [("a is red", TRUE), ("a is red", TRUE[1:]), ("a is large", [])]
    for variants in (drop, swap(POOL), poison(POOL)):
        first, second, third = attack_evidence(credulous, pairs, [1, 0, 0], variants, batch_size=2)
        assert first.clean == 1 and not first.robust
        assert second.robust and third.robust
        assert third.queries == 1
    (poisoned,) = attack_evidence(credulous, pairs[:1], [1], poison(POOL))
    assert poisoned.evidence[0].object.label == "blue" and poisoned.evidence[0].relevance == 1.0
    assert poisoned.evidence[1:] == tuple(TRUE)
    assert attack_evidence(credulous, [], [], drop) == []
