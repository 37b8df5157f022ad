"""What a recipe starts from: its graph, its data grounded and encoded, and the record of where all of it comes from."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from groundwire.export.attacks.text.evidence import object_pool
from groundwire.export.augment import Augmenter
from groundwire.export.data import Example, file_hash, label_names, read_examples, split_by_entity
from groundwire.export.errors import DataError
from groundwire.export.model import encoder_hash, load_tokenizer_json
from groundwire.export.progress import track
from groundwire.export.rows import Row, encode_examples
from groundwire.export.settings import Recipe
from groundwire.kg import compile_graph, open_graph
from groundwire.kg.encode import PairEncoder
from groundwire.kg.known_words import KnownWords
from groundwire.kg.normalise import Normaliser
from groundwire.kg.types import Evidence, Retriever
from groundwire.v1 import bundle_pb2

POOL_EXAMPLES = 4000  # training examples whose evidence false triples are made of
PACKAGES = ("groundwire", "torch", "transformers", "accelerate", "onnx", "onnxruntime", "tokenizers", "rdflib", "numpy")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Encoded data.

    `words`: content of the bundle's list of words, empty when spelling is left alone; `changed`: for each epoch, the
    training rows that differ in it, by place; `shuffled`: test rows with their words shuffled; `test_examples`: what
    the test rows come from.
    """

    labels: list[str]
    tokenizer: bytes
    words: bytes
    encoder: PairEncoder
    train: list[Row]
    changed: list[Mapping[int, Row]]
    calibration: list[Row]
    test: list[Row]
    shuffled: list[Row]
    test_examples: list[Example]


@contextmanager
def open_recipe_graph(recipe: Recipe) -> Iterator[Retriever | None]:
    """The recipe's graph, compiled into a temporary folder when it is given as RDF; None when there is none."""
    sources = [recipe.path(source) for source in recipe.graph.sources]
    if not sources:
        yield None
        return
    with TemporaryDirectory(prefix="groundwire-") as folder:
        if len(sources) > 1 or not sources[0].is_dir():
            compile_graph(sources, Path(folder) / "graph")
            sources = [Path(folder) / "graph"]
        with closing(open_graph(sources[0])) as retriever:
            yield retriever


def _read_splits(recipe: Recipe) -> tuple[list[Example], list[Example], list[Example]]:
    """The examples to train, to calibrate and to test with.

    Raises:
        DataError: a file can't be read.
    """
    train = read_examples(recipe.path(recipe.data.train))
    if recipe.data.train_limit:
        train = train[: recipe.data.train_limit]
    test = read_examples(recipe.path(recipe.data.test))
    if recipe.data.calibration:
        return train, read_examples(recipe.path(recipe.data.calibration)), test
    test, calibration = split_by_entity(test, recipe.data.calibration_share, recipe.seed)
    return train, calibration, test


def prepare(recipe: Recipe, retriever: Retriever | None) -> Prepared:
    """Read, ground and encode the data.

    Raises:
        DataError: a file can't be read, or its labels don't fit the training data.
        EncoderError: the encoder has no tokenizer.
    """
    train, calibration, test = _read_splits(recipe)
    labels = label_names(train)
    augment = recipe.train.augment
    if augment.unknown and augment.neutral_label not in labels:
        raise DataError(f"train.augment.neutral_label {augment.neutral_label!r} is not among the labels {labels}.")
    if len(labels) < 2:
        raise DataError(f"{recipe.data.train} has one label only ({labels[0]}); a classifier needs two or more.")
    for name, part in (("calibration", calibration), ("test", test)):
        if not part:
            raise DataError(f"no {name} examples are left; give data.calibration or change data.calibration_share.")
        if strange := sorted(set(label_names(part)) - set(labels)):
            raise DataError(f"labels {strange} of the {name} data do not occur in the training data.")
    given = (("train", recipe.graph.train_entities, train), ("test", recipe.graph.test_entities, test))
    for role, entities, part in given:
        if retriever is not None and recipe.graph.top_k and entities == "gold" and not any(e.entities for e in part):
            raise DataError(
                f"graph.{role}_entities is 'gold', and no example names entities, so that none would have evidence; "
                "set it to 'linked', or give the examples their entities."
            )
    tokenizer = load_tokenizer_json(recipe.encoder_name)
    words = _known_words(recipe, train, tokenizer)
    encoder = PairEncoder(tokenizer, recipe.encoder.max_tokens, _normaliser(recipe, words))
    top_k, graph = recipe.graph.top_k, recipe.graph

    def encode(examples: Sequence[Example], entities: str, title: str) -> list[Row]:
        return encode_examples(examples, labels, encoder, retriever, top_k=top_k, entities=entities, title=title)  # type: ignore[arg-type]

    shuffle = random.Random(recipe.seed)
    shuffled = [replace(e, text=" ".join(shuffle.sample(e.text.split(), len(e.text.split())))) for e in test]
    rows = encode(train, graph.train_entities, "evidence: training")
    return Prepared(
        labels, tokenizer, words.to_bytes() if words is not None else b"", encoder,
        train=rows,
        changed=_changed(recipe, retriever, train, rows, encoder, labels),
        calibration=encode(calibration, graph.test_entities, "evidence: calibration"),
        test=encode(test, graph.test_entities, "evidence: test"),
        shuffled=encode(shuffled, graph.test_entities, "evidence: shuffled"),
        test_examples=test,
    )  # fmt: skip


def _known_words(recipe: Recipe, train: Sequence[Example], tokenizer: bytes) -> KnownWords | None:
    """The words that spelling is put right with: those of the training texts and of the tokenizer."""
    if recipe.encoder.normalise != "spell":
        return None
    vocabulary = Tokenizer.from_str(tokenizer.decode("utf-8")).get_vocab(with_added_tokens=False)
    return KnownWords.of((example.text for example in train), vocabulary)


def _normaliser(recipe: Recipe, words: KnownWords | None) -> Normaliser | None:
    return None if recipe.encoder.normalise == "none" else Normaliser(words)


def _changed(
    recipe: Recipe,
    retriever: Retriever | None,
    examples: Sequence[Example],
    rows: Sequence[Row],
    encoder: PairEncoder,
    labels: Sequence[str],
) -> list[Mapping[int, Row]]:
    """The training rows that augmentation and evidence dropout change, epoch by epoch."""
    augment, dropout = recipe.train.augment, recipe.train.evidence_dropout
    if not (augment.edit or augment.poison or augment.unknown or dropout):
        return []

    def ground(text: str, example: Example) -> tuple[Evidence, ...]:
        if retriever is None or not recipe.graph.top_k:
            return ()
        named = list(example.entities) if recipe.graph.train_entities == "gold" else None
        return retriever.ground(text, recipe.graph.top_k, named).evidence

    pool = {}
    if augment.poison:
        sample = random.Random(recipe.seed).sample(examples, min(len(examples), POOL_EXAMPLES))
        pool = object_pool(ground(e.text, e) for e in track(sample, "evidence: false triples"))
    neutral = labels.index(augment.neutral_label) if augment.unknown else 0
    augmenter = Augmenter(examples, rows, encoder, ground, pool, retriever, augment, dropout, recipe.seed, neutral)
    return [augmenter.epoch(epoch) for epoch in range(recipe.train.epochs)]


def provenance_of(recipe: Recipe, retriever: Retriever | None) -> bundle_pb2.Provenance:
    """Where the bundle comes from, and what it depends on.

    Raises:
        DataError: a file can't be read.
        EncoderError: there is no such encoder.
    """
    provenance = bundle_pb2.Provenance(
        recipe=recipe.text, seed=recipe.seed, created=datetime.now(UTC).isoformat(timespec="seconds"),
        graph_version=retriever.info.version if retriever else "",
    )  # fmt: skip
    for role, name in (
        ("train", recipe.data.train),
        ("calibration", recipe.data.calibration),
        ("test", recipe.data.test),
    ):
        if name:
            try:
                provenance.data[role] = file_hash(recipe.path(name))
            except OSError as error:
                raise DataError(f"data.{role} can't be read: {error}") from error
    provenance.data["encoder"] = encoder_hash(recipe.encoder_name)
    for package in PACKAGES:
        try:
            provenance.packages[package] = version(package)
        except PackageNotFoundError:
            provenance.packages[package] = "not installed"
    return provenance
