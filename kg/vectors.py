"""Meaning without a model run: one vector a word, from the token table of a text encoder.

The table is centred, freed of its strongest common direction and cut to 64 dimensions ("all but the top", Mu and
Viswanath 2018), then stored as 8-bit integers. A label's vector is the mean of its tokens', frequent tokens weighing
less (SIF, Arora et al. 2017). Dot products of such integers are exact in 32-bit floats, so every machine and every
retriever ranks the same.
"""

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from groundwire.kg.errors import GraphError
from groundwire.kg.settings import GraphSettings
from groundwire.kg.stems import LONGEST_KEPT

Bytes = NDArray[np.int8]
Floats32 = NDArray[np.float32]

DIMENSIONS = 64
NO_VECTORS: Bytes = np.zeros((0, DIMENSIONS), dtype=np.int8)
_LARGEST = 127
_SMOOTHING = 1e-3  # SIF's a
_LONGEST_LABEL = 256  # code points of a label that are read
_MOST_WORDS = 1 << 14  # kept ready
_DTYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
_TABLES = ("embeddings.word_embeddings.weight", "word_embeddings.weight", "embed_tokens.weight", "wte.weight")


class WordVectors:
    """Vectors of words and labels from a token table, shape (tokens, 64), and its tokenizer."""

    def __init__(self, table: Bytes, tokenizer_json: str) -> None:
        self.table = table
        self.tokenizer_json = tokenizer_json
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Vocabularies are in order of falling frequency, which by Zipf's law falls like the rank.
        rank = np.arange(1, len(table) + 1)
        share = 1.0 / (rank * np.log(len(table) + 1.0))
        self._weights = (_SMOOTHING / (_SMOOTHING + share)).astype(np.float32)
        self._known: dict[str, Bytes] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of table and tokenizer, hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.table).tobytes())
        digest.update(self.tokenizer_json.encode())
        return digest.hexdigest()

    def labels(self, labels: list[str]) -> Bytes:
        """One vector a label, shape (len(labels), 64); zero for a label without tokens."""
        encoded = self._tokenizer.encode_batch_fast(
            [label[:_LONGEST_LABEL] for label in labels], add_special_tokens=False
        )
        vectors = np.zeros((len(labels), DIMENSIONS), dtype=np.float32)
        for place, encoding in enumerate(encoded):
            ids = encoding.ids
            if ids:
                weights = self._weights[ids]
                vectors[place] = (self.table[ids].astype(np.float32) * weights[:, None]).sum(axis=0)
        return _quantise(vectors)

    def words(self, words: list[str]) -> Bytes:
        """One vector a word, shape (len(words), 64)."""
        if not words:
            return NO_VECTORS
        known = self._known
        new = [word for word in words if word not in known]
        made = dict(zip(new, self.labels(new), strict=True)) if new else {}
        if new:
            if len(known) + len(new) > _MOST_WORDS:
                # A new dictionary, since other threads may still read the old one.
                known = self._known = {word: known[word] for word in words if word in known}
            known.update((word, vector) for word, vector in made.items() if len(word) <= LONGEST_KEPT)
        return np.stack([made[word] if word in made else known[word] for word in words])

    @classmethod
    def from_encoder(cls, folder: Path) -> "WordVectors":
        """Read `model.safetensors` and `tokenizer.json` of an encoder's folder.

        Raises `GraphError` when either is missing or holds no token table.
        """
        try:
            tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
            table = _read_table(folder / "model.safetensors")
            return cls(_reduce(table), tokenizer)
        except GraphError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise GraphError(
                f"{folder}: can't read a token table ({error}); give an encoder's model.safetensors and tokenizer.json"
            ) from error


def _read_table(path: Path) -> Floats32:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(length))
        name = next((one for end in _TABLES for one in header if one.endswith(end)), None)
        if name is None or header[name]["dtype"] not in _DTYPES:
            raise GraphError(f"{path}: holds no table of token embeddings in 16, 32 or 64-bit floats")
        start, end = header[name]["data_offsets"]
        stream.seek(8 + length + start)
        flat = np.frombuffer(stream.read(end - start), dtype=_DTYPES[header[name]["dtype"]])
    return flat.reshape(header[name]["shape"]).astype(np.float32)


def _reduce(table: Floats32) -> Bytes:
    """Centre, drop the first principal direction, keep the next 64, quantise. Shape (tokens, width) -> (tokens, 64)."""
    centred = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    _, directions = np.linalg.eigh(centred.T @ centred)
    kept = directions[:, ::-1][:, 1 : DIMENSIONS + 1]
    # The sign of an eigenvector is arbitrary: let its largest entry be positive.
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])
    reduced = np.zeros((len(table), DIMENSIONS), dtype=np.float32)
    reduced[:, : kept.shape[1]] = centred @ kept
    return _quantise(reduced)


def _quantise(vectors: Floats32) -> Bytes:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    quantised: Bytes = np.rint(_LARGEST * vectors / np.maximum(lengths, 1e-9)).astype(np.int8)
    return quantised


def similarity(labels: Bytes, words: Bytes) -> Floats32:
    """The cosine of each label with the word nearest to it; shapes (n, 64), (m, 64) -> (n,)."""
    if not len(words) or not len(labels):
        return np.zeros(len(labels), dtype=np.float32)
    products: Floats32 = labels.astype(np.float32) @ words.astype(np.float32).T
    nearest: Floats32 = products.max(axis=1) / np.float32(_LARGEST * _LARGEST)
    return nearest


def with_vectors(settings: GraphSettings, vectors: WordVectors | None) -> GraphSettings:
    """The settings with the digest of the vectors that are used."""
    return replace(settings, vectors=vectors.digest if vectors is not None else "")
