"""What linking and ranking need from a graph. The compiled and the rdflib retriever differ in this alone.

Nodes (IRIs, blank nodes, literals) and words are integers that mean something to one index only. All that decides an
order or a score is the same in every index: strings of terms, word statistics, the canonical order of triples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.settings import GraphSettings
from groundwire.kg.spell import Spelling
from groundwire.kg.stems import stem
from groundwire.kg.terms import make_term
from groundwire.kg.types import Evidence, GraphInfo, Term
from groundwire.kg.vectors import Bytes, WordVectors
from groundwire.kg.verbalise import verbalise

if TYPE_CHECKING:
    from groundwire.kg.match import Span
    from groundwire.kg.readings import Reading

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Of a text's words: the first, the last (exclusive), and what the index knows the sequence by.
Place = tuple[int, int, int]
# The first and last word, and the key.
Found = list[tuple[int, int, int]]
PartsOf = Callable[[list[Place]], Found]

# Nodes of subject, predicate and object, and the number of the named graph.
Row = tuple[int, int, int, int]

LABEL, ALTERNATIVE = 0, 1
LOWER_CASE, CASED = 0, 1


class Posting(NamedTuple):
    """An entity under a label key: `kind` is LABEL or ALTERNATIVE; `shape` is CASED when the label has a capital."""

    node: int
    kind: int
    shape: int


class Kernel(Protocol):
    """The loops of ranking, compiled: `rank.best` and `context.shared_words` for one graph."""

    def best(
        self,
        nodes: list[int],
        query_words: Ints,
        query_weights: NDArray[np.float64],
        quantity: bool,
        content_ids: Sequence[int],
        content_vectors: Bytes,
        top_k: int,
    ) -> tuple[list[Row], list[float], set[int]]:
        """Rows, their scores, and the words of the query that they or the nodes' labels hold."""

    def degree(self, node: int) -> int:
        """Triples with the node as subject or object."""

    def shared(self, nodes: list[int], query_words: Ints, query_weights: NDArray[np.float64]) -> list[list[float]]:
        """For each node the weights of the query's words that its triples or its description hold."""


class Finder(Protocol):
    """The loops of `match.find_spans`, compiled, for one graph."""

    def spans(self, text: str, words: list[str], starts: list[int], ends: list[int]) -> "list[Span]":
        """The spans of a text's words that may be labels."""


class Scorer(Protocol):
    """The loops of `readings.find_readings`, compiled, for one graph."""

    def readings(
        self, text: str, words: list[str], starts: list[int], ends: list[int], spans: "Sequence[Span]", capitals: bool
    ) -> "list[Reading]":
        """The readings of spans that are ordered by first and last word."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Triples in canonical order: by the strings of subject, predicate, object, graph. All arrays have shape (n,)."""

    subjects: Ints
    predicates: Ints
    objects: Ints
    graphs: Ints

    def __len__(self) -> int:
        return len(self.subjects)


def word_weights(frequencies: Ints, triples: int) -> Floats:
    """What sharing a word counts for that so many of the graph's triples hold. Shape as `frequencies`."""
    weights: Floats = np.log1p(max(1, triples) / (1.0 + frequencies))
    return weights


class GraphIndex(ABC):
    """A graph, looked up. Every method may be called from several threads at once."""

    settings: GraphSettings
    vectors: WordVectors | None = None
    longest_key_words: int  # words of the longest label
    longest_key: int  # letters of the longest label, spaces not counted
    info: GraphInfo
    type_node: int  # the node of rdf:type; -1 when the graph doesn't use it
    finder: Finder | None = None  # what finds spans in the place of `groundwire.kg.match`, with the same result
    scorer: Scorer | None = None  # what reads the spans in the place of `groundwire.kg.readings`, with the same result
    kernel: Kernel | None = None  # what ranks in the place of `groundwire.kg.rank`, with the same result

    @abstractmethod
    def lookup(
        self, words: Sequence[str], starts: int, longest: int, center: int = -1
    ) -> tuple[Found, list[Place], PartsOf]:
        """The sequences of 1 to `longest` words, begun at one of the first `starts`, that are labels without spaces.

        With `center` only those around that word. The other values are the sequences that may be parts of labels, and
        a function that gives the same for the parts among some of these. All are in order of first and last word.
        """

    @abstractmethod
    def key_text(self, key: int) -> str:
        """The folded label of a key, with its spaces."""

    @abstractmethod
    def postings(self, key: int) -> tuple[Posting, ...]:
        """The entities of a key, ordered by IRI."""

    @abstractmethod
    def spellings(self, words: Sequence[str]) -> list[list[Spelling]]:
        """For each word the label words one slip away, or two, with that number; none for a word that labels hold.

        Those that are fewest slips away only, in alphabetic order.
        """

    @abstractmethod
    def lower_case_counts(self, words: Sequence[str]) -> list[int]:
        """How often each word stands in lower case in the graph's own texts, once not counted: a sign of no name.

        A word after `groundwire.kg.labels.ALONE`: how often its descriptions use it as a name of its own.
        """

    @abstractmethod
    def about(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The distinct words of the nodes' descriptions, one node's after another's, and how many each node has."""

    @abstractmethod
    def find(self, iri: str) -> int | None:
        """The node of an IRI; None when the graph doesn't hold it."""

    @abstractmethod
    def same_as(self, node: int) -> tuple[str, ...]:
        """The other IRIs of a fused entity, sorted; `find` gives its node for each."""

    @abstractmethod
    def conflicting(self, subject: int, predicate: int) -> bool:
        """Whether the predicate is functional, and the graph holds several values of it for the subject."""

    @abstractmethod
    def key(self, node: int) -> str:
        """The string form of a node (`groundwire.kg.terms`)."""

    @abstractmethod
    def label(self, node: int) -> str:
        """The label that people read; never empty."""

    @abstractmethod
    def label_vectors(self, nodes: Ints) -> Bytes:
        """The vectors of the nodes' labels, shape (len(nodes), 64); only with `vectors`."""

    def term(self, node: int) -> Term:
        """The node as a term with its label."""
        return make_term(self.key(node), self.label(node))

    def evidence(self, rows: list[Row], scores: list[float]) -> list[Evidence]:
        """Triples as evidence, each with its score as relevance."""
        found = []
        for (subject, predicate, obj, graph), score in zip(rows, scores, strict=True):
            s, p, o = self.term(subject), self.term(predicate), self.term(obj)
            said, conflicting = verbalise(s.label, p.label, o.label), self.conflicting(subject, predicate)
            found.append(Evidence(s, p, o, self.graph_name(graph), said, score, conflicting))
        return found

    @abstractmethod
    def graph_name(self, graph: int) -> str:
        """IRI of a named graph, empty for the default graph."""

    @abstractmethod
    def degree(self, node: int) -> int:
        """How many triples that can be evidence have the node as subject or object."""

    @abstractmethod
    def facts(self, nodes: Sequence[int]) -> Facts:
        """The triples of `nodes` as subject and as object, each once, at most the settings' limits a node."""

    @abstractmethod
    def word_ids(self, stems: Sequence[str]) -> list[int]:
        """The word of each stem; -1 for one that no label or literal holds."""

    def holds_word(self, word: str) -> bool:
        """Whether some label or literal holds the word."""
        return self.word_ids([stem(word)])[0] >= 0

    @abstractmethod
    def frequencies(self, words: Ints) -> Ints:
        """How many triples hold each word in the label of predicate or object. Shape as `words`."""

    def look_up(self, words: list[str]) -> tuple[list[str], dict[str, int], list[int], list[float]]:
        """The stem of each word, empty for a stop word; the word ids of the stems that the graph knows, by stem; these
        ids in rising order, and what sharing each counts for."""
        stems = list(map(stem, words))
        distinct = list(dict.fromkeys(filter(None, stems)))
        numbers = {one: number for one, number in zip(distinct, self.word_ids(distinct), strict=True) if number >= 0}
        known = sorted(numbers.values())
        return stems, numbers, known, self.weights(np.array(known, dtype=np.int64)).tolist()

    def weights(self, words: Ints) -> Floats:
        """log(1 + N / (1 + n)) for the number n of the graph's N triples that hold each word. Shape as `words`."""
        return word_weights(self.frequencies(words), self.info.triples)

    @abstractmethod
    def words_of(self, nodes: Ints) -> tuple[Ints, Ints]:
        """The distinct words of the nodes' labels, one node's after another's, and how many each node has."""

    @abstractmethod
    def has_digit(self, nodes: Ints) -> NDArray[np.bool_]:
        """Whether the label of each node holds a digit. Shape as `nodes`."""

    def close(self) -> None:  # noqa: B027 - an index in memory has nothing to release
        """Release files and connections."""
