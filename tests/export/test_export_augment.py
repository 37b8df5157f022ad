"""Augmented training rows: what changes, what stays, and that the same seed gives the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from groundwire.export.attacks.text.evidence import object_pool
from groundwire.export.attacks.text.meaning import keeps_meaning
from groundwire.export.augment import Augmenter
from groundwire.export.data import Example, label_names, read_examples
from groundwire.export.model import load_tokenizer_json
from groundwire.export.rows import Row, encode_examples
from groundwire.export.settings import AugmentSettings
from groundwire.kg import Evidence, RdflibRetriever, Retriever, load_dataset
from groundwire.kg.encode import PairEncoder
from groundwire.kg.known_words import KnownWords
from groundwire.kg.normalise import Normaliser


class Watched:
    """Grounds with gold entities, and keeps the texts that it was asked for."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever
        self.texts: list[str] = []

    def __call__(self, text: str, example: Example) -> tuple[Evidence, ...]:
        self.texts.append(text)
        return self.retriever.ground(text, 4, list(example.entities)).evidence


@pytest.fixture(scope="module")
def towns(project: Path) -> tuple[list[Example], list[Row], PairEncoder, RdflibRetriever]:
    examples = read_examples(project / "train.jsonl")[:200]
    retriever = RdflibRetriever(load_dataset([project / "towns.ttl"]))
    encoder = PairEncoder(load_tokenizer_json(str(project / "encoder")), 32)
    rows = encode_examples(examples, label_names(examples), encoder, retriever, top_k=4, entities="gold")
    return examples, rows, encoder, retriever


def augmenter(
    towns: tuple[list[Example], list[Row], PairEncoder, RdflibRetriever],
    settings: AugmentSettings,
    dropout: float = 0.0,
    seed: int = 1,
) -> tuple[Augmenter, Watched]:
    examples, rows, encoder, retriever = towns
    ground = Watched(retriever)
    pool = object_pool(ground(e.text, e) for e in examples)
    ground.texts.clear()
    return Augmenter(examples, rows, encoder, ground, pool, retriever, settings, dropout, seed, neutral=1), ground


def differing(rows: Sequence[Row], changed: dict[int, Row]) -> int:
    return sum(rows[place].ids != row.ids for place, row in changed.items())


def test_an_epoch_is_the_same_again_and_another_one_differs(towns):
    made, _ = augmenter(towns, AugmentSettings(edit=0.4, poison=0.3), dropout=0.2)
    first, again, other = dict(made.epoch(0)), dict(made.epoch(0)), dict(made.epoch(1))
    assert first == again
    assert first != other
    assert 0.55 < len(first) / len(towns[0]) < 0.78  # 1 - 0.6 · 0.7 · 0.8 = 0.66
    assert dict(augmenter(towns, AugmentSettings(edit=0.4, poison=0.3), dropout=0.2, seed=2)[0].epoch(0)) != first


def test_labels_and_places_stay(towns):
    made, _ = augmenter(towns, AugmentSettings(edit=1.0, poison=1.0), dropout=0.5)
    for place, row in made.epoch(0).items():
        assert (row.label, row.index) == (towns[1][place].label, towns[1][place].index)


def test_edited_texts_say_the_same(towns):
    made, ground = augmenter(towns, AugmentSettings(edit=1.0))
    changed = dict(made.epoch(0))
    assert len(changed) == len(towns[0])
    assert sum(a != e.text for a, e in zip(ground.texts, towns[0], strict=True)) > 0.7 * len(towns[0])
    assert all(keeps_meaning(e.text, a) for a, e in zip(ground.texts, towns[0], strict=True))


def test_a_poisoned_row_holds_a_value_that_the_graph_does_not_state(towns):
    examples, rows, _, _ = towns
    made, ground = augmenter(towns, AugmentSettings(poison=1.0))
    changed = dict(made.epoch(0))
    assert ground.texts == [e.text for e in examples], "the texts are left alone"
    assert differing(rows, changed) > 0.9 * len(rows)
    moods = {frozenset(row.ids) - frozenset(rows[place].ids) for place, row in changed.items()}
    assert any(moods), "some token of a false value is new to its row"


def test_dropout_leaves_the_text_alone(towns):
    examples, _, encoder, _ = towns
    made, ground = augmenter(towns, AugmentSettings(), dropout=1.0)
    changed = made.epoch(0)
    assert not ground.texts
    assert all(changed[n].ids == encoder.encode(e.text, ()).ids for n, e in enumerate(examples))


def test_rows_whose_knowledge_is_taken_away_get_the_neutral_label(towns):
    examples, rows, encoder, _ = towns
    made, ground = augmenter(towns, AugmentSettings(unknown=0.3, neutral_label="any"))
    changed = dict(made.epoch(0))
    assert 0.2 < len(changed) / len(rows) < 0.4
    assert not ground.texts
    assert {row.label for row in changed.values()} == {1}
    assert {rows[place].label for place in changed} > {1}
    assert all(row.ids == encoder.encode(examples[place].text, ()).ids for place, row in changed.items())


def test_what_normalisation_undoes_is_not_taught(towns):
    examples, rows, plain, retriever = towns
    words = KnownWords.of((e.text for e in examples), {})
    encoder = PairEncoder(plain.tokenizer.to_str().encode(), 32, Normaliser(words))
    normalised = encode_examples(examples, label_names(examples), encoder, retriever, top_k=4, entities="gold")
    made, ground = augmenter((examples, normalised, encoder, retriever), AugmentSettings(edit=1.0))
    changed = dict(made.epoch(0))
    edited = [(e.text, a) for e, a in zip(examples, ground.texts, strict=True) if e.text != a]
    assert all(encoder.normaliser(after) != encoder.normaliser(before) for before, after in edited)
    assert len(changed) == len(rows)
