"""The demo's claims: labels that follow from the graph, splits that share no entity, and texts that tell nothing."""

from collections import Counter
from pathlib import Path

import pytest

from groundwire.demo.claims import LABELS, SIZES, Claim, Claims, count, said, write_claims
from groundwire.demo.questions import QUESTIONS
from groundwire.demo.world import BASE, HELD_OUT, Split, World, read_world
from groundwire.export.data import read_examples


@pytest.fixture(scope="module")
def world() -> World:
    return read_world()


@pytest.fixture(scope="module")
def claims(world: World) -> dict[Split, list[Claim]]:
    return {split: Claims(world, split).draw(size) for split, size in SIZES.items()}


def test_sizes_and_balance(claims: dict[Split, list[Claim]]) -> None:
    for split, size in SIZES.items():
        assert len(claims[split]) == size
        counts = Counter(claim.label for claim in claims[split])
        assert max(counts.values()) - min(counts.values()) <= 2
        assert set(counts) == set(LABELS)
        assert len({claim.text for claim in claims[split]}) == size
        assert len({claim.id for claim in claims[split]}) == size


def test_no_entity_on_both_sides(world: World, claims: dict[Split, list[Claim]]) -> None:
    named = {s: {e for claim in part for e in claim.entities if world.split(e)} for s, part in claims.items()}
    assert not named["train"] & named["test"]
    assert not named["train"] & named["calibration"]
    assert not named["calibration"] & named["test"]


def test_same_seed_same_claims(world: World, claims: dict[Split, list[Claim]], tmp_path: Path) -> None:
    assert Claims(world, "test").draw(SIZES["test"]) == claims["test"]
    assert Claims(world, "test", seed=1).draw(SIZES["test"]) != claims["test"]
    paths = write_claims(tmp_path / "new" / "claims")
    assert [example.text for example in read_examples(paths["test"])] == [claim.text for claim in claims["test"]]


def test_labels_follow_from_the_graph(world: World, claims: dict[Split, list[Claim]]) -> None:
    by_text = {claim.text: claim for claim in claims["train"]}
    checked = Counter[str]()
    for country in world.subjects("Country"):
        stated = world.facts.get((country, "capital"), [])
        for city in world.subjects("City"):
            claim = by_text.get(f"{world.name(city)} is the capital of {world.name(country)}.")
            if claim is not None:
                expected = "not_enough_info" if not stated else "supported" if city in stated else "contradicted"
                assert claim.label == expected, claim.text
                assert set(claim.entities) == {country, city}
                checked[expected] += 1
    assert set(checked) == set(LABELS)


def test_undecided_claims_may_be_true(world: World, claims: dict[Split, list[Claim]]) -> None:
    """Otherwise "not in the graph" would be no more than "false in the world"."""
    withheld = {(s, o) for (s, _), objects in world.withheld.items() for o in objects if o.startswith(BASE)}
    undecided = [set(claim.entities) for claim in claims["train"] if claim.label == "not_enough_info"]
    assert sum(any({s, o} == entities for s, o in withheld) for entities in undecided) > 100


def test_every_wording_serves_every_label(claims: dict[Split, list[Claim]]) -> None:
    for words in (" capital ", " currency ", " border", " language ", " founded ", " Olympics", " people "):
        counts = Counter(claim.label for claim in claims["train"] if words in claim.text)
        assert set(counts) == set(LABELS)
        assert max(counts.values()) < 2.2 * min(counts.values()), words


@pytest.mark.parametrize(("analyzer", "ngrams"), [("word", (1, 2)), ("char_wb", (2, 3))])
def test_the_text_alone_tells_nothing(claims: dict[Split, list[Claim]], analyzer: str, ngrams: tuple[int, int]) -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    vectorizer = text.TfidfVectorizer(analyzer=analyzer, ngram_range=ngrams)
    train, test = claims["train"], claims["test"]
    rows = vectorizer.fit_transform([claim.text for claim in train])
    model = linear.LogisticRegression(max_iter=300).fit(rows, [claim.label for claim in train])
    accuracy = model.score(vectorizer.transform([c.text for c in test]), [c.label for c in test])
    assert accuracy <= 0.45


def test_numbers() -> None:
    assert count("5.3 million") == 5_300_000
    assert count("480 thousand") == 480_000
    assert said(2_000_000) == "2 million"
    assert said(1_000_000_000) == "1 billion"


def test_questions_are_what_they_say(world: World) -> None:
    by_label = {label: iri for iri, label in world.labels.items()}
    true, false, unknown, typos, hostile, nothing = QUESTIONS

    def stated(country: str, predicate: str) -> list[str]:
        assert by_label[country].removeprefix(f"{BASE}country/") in HELD_OUT
        return world.facts.get((by_label[country], predicate), [])

    assert stated("Australia", "capital") == [by_label["Canberra"]]
    assert (true.expected, false.expected) == ("supported", "contradicted")
    assert world.facts[by_label["Sydney"], "country"] == [by_label["Australia"]]
    assert not stated("Cuba", "highest-mountain")
    assert "highest mountain in Cuba" in unknown.text
    assert unknown.expected == "not_enough_info"
    assert stated("Kenya", "capital") == [by_label["Nairobi"]]
    assert "Nairobi" in typos.text
    assert "capital" not in typos.text
    assert stated("Brazil", "official-language") == [by_label["Portuguese"]]
    assert "Brazil" not in hostile.text
    assert not any(label in nothing.text for label in by_label)
    assert nothing.expected is None
