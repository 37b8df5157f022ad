"""What `_native.pyx` does for a compiled graph; None each where the package was built without it."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundwire.kg import match, spell
from groundwire.kg.format import Folder
from groundwire.kg.index import word_weights
from groundwire.kg.labels import ALONE
from groundwire.kg.native import native
from groundwire.kg.rank import WEIGHTS
from groundwire.kg.readings import BIAS, MOST_CANDIDATES, SHORTEST_RESPACED, VECTOR, Reading
from groundwire.kg.settings import GraphSettings
from groundwire.kg.stems import LONGEST_KEPT, STOP_WORDS, stem
from groundwire.kg.strings import SortedStrings
from groundwire.kg.surface import BEFORE_SENTENCE, in_address
from groundwire.kg.terms import make_term
from groundwire.kg.types import XSD_STRING, Evidence, Term
from groundwire.kg.verbalise import LONGEST_LABEL, shorten

if TYPE_CHECKING:
    from groundwire.kg._native import Finder, Kernel, Lexicon, Scorer, Writer

_MOST_WORDS = 1 << 16  # kept ready, about 10 MB
_MOST_TERMS = 1 << 15  # kept ready, about 20 MB
_LONGEST_TERM = 1 << 12  # code points of a term that is kept
_ARRAYS = """term_digit terms_offset outgoing incoming triple_subject triple_predicate triple_object triple_graph
incoming_triple term_words_offset term_words about_offset about""".split()  # noqa: SIM905


def open_kernel(folder: Folder, settings: GraphSettings, type_node: int) -> "Kernel | None":
    """Ranking on a folder's arrays."""
    if native is None:
        return None
    arrays = {name: folder.array(name) for name in _ARRAYS}
    if folder.has("term_vectors"):
        arrays["term_vectors"] = folder.array("term_vectors")
    limits = settings.outgoing_limit, settings.incoming_limit
    kernel: Kernel = native.Kernel(arrays, folder.blob("terms"), *limits, type_node, WEIGHTS)
    return kernel


def open_lexicon(folder: Folder, triples: int) -> "Lexicon | None":
    """The words of a folder's vocabulary, of a graph of so many triples."""
    if native is None:
        return None

    def weight(frequency: int) -> float:
        return float(word_weights(np.array([frequency]), triples)[0])

    vocabulary = folder.array("vocabulary_hash"), folder.array("vocabulary_frequency")
    lexicon: Lexicon = native.Lexicon(*vocabulary, stem, weight, _MOST_WORDS, LONGEST_KEPT)
    return lexicon


def open_writer(
    terms: SortedStrings, labels: SortedStrings, graph_names: list[str], conflicts: NDArray[np.uint64]
) -> "Writer | None":
    """Triples as evidence, from the strings of their nodes."""
    if native is None:
        return None
    made = Term, Evidence, make_term, shorten, XSD_STRING, LONGEST_LABEL, _MOST_TERMS, _LONGEST_TERM
    writer: Writer = native.Writer(terms, labels, graph_names, conflicts, *made)
    return writer


def open_finder(
    folder: Folder, keys: SortedStrings, label_words: SortedStrings, lexicon: "Lexicon", filter_shift: int, longest: int
) -> "Finder | None":
    """The spans that may be labels of a folder, of which the longest has so many words."""
    if native is None:
        return None
    spellings = folder.array("spelling_hash"), folder.array("spelling_word")
    speller = native.Speller(*spellings, label_words, lexicon, _MOST_WORDS, spell.BOUNDS)
    tables = {name: folder.array(name) for name in ("key_filter", "key_hash", "part_hash", "part_key")}
    bounds = match.longest_span(longest), match.BOUNDS
    finder: Finder = native.Finder(keys, speller, tables, filter_shift, *bounds, match.RUN_ON, match.Span)
    return finder


def open_scorer(folder: Folder, keys: SortedStrings) -> "Scorer | None":
    """The readings of spans that are labels of a folder."""
    if native is None:
        return None
    names = ("key_posting", "posting_term", "posting_kind", "lower_hash", "lower_count")
    fitted = np.array(VECTOR), BIAS, SHORTEST_RESPACED, MOST_CANDIDATES
    made = Reading, in_address, STOP_WORDS, ALONE, BEFORE_SENTENCE
    scorer: Scorer = native.Scorer(keys, {name: folder.array(name) for name in names}, *fitted, *made)
    return scorer
