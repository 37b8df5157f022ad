import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from groundwire.kg import (
    CompiledRetriever,
    GraphError,
    RdflibRetriever,
    WordVectors,
    compile_graph,
    load_dataset,
)
from groundwire.kg.vectors import similarity

WORDS = [
    "the",
    "Fleet",
    "Red",
    "Dot",
    "cars",
    "vehicles",
    "colour",
    "owner",
    "many",
    "has",
    *(f"w{n}" for n in range(190)),
]
GRAPH = """
@prefix : <http://e.org/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
:f rdfs:label "Red Dot Fleet" ; :cars "many" ; :colour "w1" ; :owner "w2" , "w3" .
"""


def write_encoder(folder: Path, dtype: str = "<f4", name: str = "F32") -> Path:
    """An encoder's folder of 200 words in 96 dimensions, where "cars" and "vehicles" mean nearly the same."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(len(WORDS), 96))
    table[WORDS.index("vehicles")] = table[WORDS.index("cars")] + 0.1 * rng.normal(size=96)
    data = table.astype(dtype).tobytes()
    header = {
        "bert.embeddings.word_embeddings.weight": {"dtype": name, "shape": [200, 96], "data_offsets": [0, len(data)]}
    }
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="the"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> WordVectors:
    return WordVectors.from_encoder(write_encoder(tmp_path_factory.mktemp("encoder")))


def test_words_of_near_meaning_are_near(vectors: WordVectors) -> None:
    cars = vectors.words(["cars"])
    assert similarity(cars, vectors.words(["vehicles"]))[0] > 0.9
    assert similarity(cars, vectors.words(["colour", "owner"]))[0] < 0.5
    assert similarity(cars, vectors.words([]))[0] == 0


def test_half_precision_tables_are_read(tmp_path: Path, vectors: WordVectors) -> None:
    half = WordVectors.from_encoder(write_encoder(tmp_path, "<f2", "F16"))
    assert np.abs(half.table.astype(int) - vectors.table).max() <= 2


def test_meaning_ranks_what_shares_no_word(tmp_path: Path, vectors: WordVectors) -> None:
    path = tmp_path / "g.ttl"
    path.write_text(GRAPH)
    text = "The Red Dot Fleet has vehicles"
    plain = CompiledRetriever(compile_graph(path, tmp_path / "plain"))
    by_meaning = CompiledRetriever(compile_graph(path, tmp_path / "vectors", vectors=vectors))
    cars = [one.ground(text, 4).evidence[0] for one in (plain, by_meaning)]
    assert cars[1].predicate.value == "http://e.org/cars"
    assert cars[1].relevance > next(e for e in plain.ground(text, 4).evidence if e.predicate.label == "cars").relevance
    assert plain.info.version != by_meaning.info.version


def test_both_retrievers_rank_by_meaning_alike(tmp_path: Path, vectors: WordVectors) -> None:
    path = tmp_path / "g.ttl"
    path.write_text(GRAPH)
    compiled = CompiledRetriever(compile_graph(path, tmp_path / "out", vectors=vectors))
    plain = CompiledRetriever(tmp_path / "out", native=False)
    live = RdflibRetriever(load_dataset([path]), None, compiled.info.source_hashes, vectors)
    assert compiled.info.version == live.info.version
    for text in ("Red Dot Fleet vehicles", "w2 of the Fleet", "", "the colour w1 w5 of Red Dot"):
        assert compiled.ground(text, 5) == live.ground(text, 5) == plain.ground(text, 5)
        assert compiled.retrieve(text, ["http://e.org/f"], 5) == live.retrieve(text, ["http://e.org/f"], 5)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, struct.pack("<Q", 2) + b"{}"])
def test_a_folder_without_a_token_table_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write_encoder(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(GraphError):
        WordVectors.from_encoder(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(GraphError, match=r"tokenizer\.json"):
        WordVectors.from_encoder(folder)
