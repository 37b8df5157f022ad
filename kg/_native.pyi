import re
from collections.abc import Callable, Sequence
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.match import Span
from groundwire.kg.readings import Reading
from groundwire.kg.spell import Spelling
from groundwire.kg.types import Evidence, Term

VERSION: int

def ascii_words(text: str) -> tuple[list[str], list[int], list[int]]: ...
def stem(
    word: str,
    stop_words: frozenset[str],
    numbers: dict[str, str],
    irregular: dict[str, str],
    endings: tuple[str, ...],
    shortest: int,
    longest: int,
) -> str: ...
def places(table: NDArray[np.uint64], words: Sequence[str]) -> list[int]: ...

class Strings:
    def __init__(self, blob: mmap | bytes, offsets: NDArray[np.uint64]) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> str: ...
    def find(self, text: str) -> int | None: ...

class Kernel:
    def __init__(
        self,
        arrays: dict[str, NDArray[Any]],
        terms: mmap | bytes,
        outgoing_limit: int,
        incoming_limit: int,
        type_node: int,
        weights: dict[str, float],
    ) -> None: ...
    def degree(self, node: int) -> int: ...
    def best(
        self,
        nodes: list[int],
        query_words: NDArray[np.int64],
        query_weights: NDArray[np.float64],
        quantity: bool,
        content_ids: Sequence[int],
        content_vectors: NDArray[np.int8],
        top_k: int,
    ) -> tuple[list[tuple[int, int, int, int]], list[float], set[int]]: ...
    def shared(
        self, nodes: list[int], query_words: NDArray[np.int64], query_weights: NDArray[np.float64]
    ) -> list[list[float]]: ...

class Lexicon:
    def __init__(
        self,
        hashes: NDArray[np.uint64],
        frequency: NDArray[np.uint32],
        stem: Callable[[str], str],
        weight: Callable[[int], float],
        most: int,
        longest: int,
    ) -> None: ...
    def look_up(self, words: list[str]) -> tuple[list[str], dict[str, int], list[int], list[float]]: ...

class Writer:
    def __init__(
        self,
        terms: Strings,
        labels: Strings,
        graphs: list[str],
        conflicts: NDArray[np.uint64],
        term_type: type[Term],
        evidence_type: type[Evidence],
        make_term: Callable[[str, str], Term],
        shorten: Callable[[str], str],
        default_datatype: str,
        longest: int,
        most: int,
        longest_kept: int,
    ) -> None: ...
    def evidence(self, rows: list[tuple[int, int, int, int]], scores: list[float]) -> list[Evidence]: ...

class Speller:
    def __init__(
        self,
        hashes: NDArray[np.uint64],
        owners: NDArray[np.uint32],
        words: Strings,
        lexicon: Lexicon,
        most: int,
        bounds: dict[str, int],
    ) -> None: ...
    def spellings(self, word: str) -> list[Spelling]: ...

class Finder:
    def __init__(
        self,
        keys: Strings,
        speller: Speller,
        arrays: dict[str, NDArray[Any]],
        filter_shift: int,
        longest: int,
        bounds: dict[str, int],
        run_on: re.Pattern[str],
        span_type: type[Span],
    ) -> None: ...
    def spans(self, text: str, words: list[str], starts: list[int], ends: list[int]) -> list[Span]: ...

class Scorer:
    def __init__(
        self,
        keys: Strings,
        arrays: dict[str, NDArray[Any]],
        weights: NDArray[np.float64],
        bias: float,
        shortest_respaced: int,
        most_candidates: int,
        reading_type: type[Reading],
        in_address: Callable[[str, int], bool],
        stop_words: frozenset[str],
        alone: str,
        skipped: str,
    ) -> None: ...
    def readings(
        self, text: str, words: list[str], starts: list[int], ends: list[int], spans: Sequence[Span], capitals: bool
    ) -> list[Reading]: ...
