"""The compiled loops: there where a compiler is, equal to Python's, and safe on damaged arrays."""

import gc
import shutil
import sys
import threading
import time

import numpy as np
import pytest
import rdflib
from hypothesis import given, settings
from hypothesis import strategies as st
from rdflib.namespace import RDFS, SKOS

from groundwire.kg import CompiledRetriever, compile_graph, match
from groundwire.kg.hashing import hash_all
from groundwire.kg.index import word_weights
from groundwire.kg.kernel import open_writer
from groundwire.kg.match import find_spans
from groundwire.kg.native import native
from groundwire.kg.rank import WEIGHTS
from groundwire.kg.readings import Reading, find_readings
from groundwire.kg.spell import BOUNDS, deletions, nearest
from groundwire.kg.stems import LONGEST_KEPT, STOP_WORDS, _kept_stem, plain_stem, stem
from groundwire.kg.strings import Strings
from groundwire.kg.terms import literal_key, make_term
from groundwire.kg.text import _ASCII_WORD, split
from groundwire.kg.types import Evidence, Term
from groundwire.kg.verbalise import verbalise

needs_native = pytest.mark.skipif(native is None, reason="the package was built without a C++ compiler")

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


def test_a_compiler_gives_the_compiled_loops() -> None:
    assert native is not None or shutil.which("c++") is None


@needs_native
@given(st.text(st.characters(codec="ascii")))
def test_words_are_those_of_the_pattern(text: str) -> None:
    folded = text.lower()
    found, starts, ends = native.ascii_words(folded)
    assert found == _ASCII_WORD.findall(folded)
    assert found == [folded[a:b] for a, b in zip(starts, ends, strict=True)]


@needs_native
@given(st.sets(st.text(max_size=6)), st.text(max_size=6))
def test_strings_are_found_where_they_stand(strings: set[str], other: str) -> None:
    ordered = sorted(strings)
    encoded = [one.encode("utf-8", "surrogatepass") for one in ordered]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.uint64)
    one, two = native.Strings(b"".join(encoded), offsets), Strings(b"".join(encoded), offsets)
    assert [one[n] for n in range(len(one))] == [two[n] for n in range(len(two))] == ordered
    for wanted in {*strings, other}:
        assert one.find(wanted) == two.find(wanted) == (ordered.index(wanted) if wanted in strings else None)
    with pytest.raises(IndexError):
        one[len(one)]


@needs_native
def test_damaged_offsets_of_strings_are_an_error() -> None:
    damaged = native.Strings(b"abc", np.array([0, 2**40, 3], np.uint64))
    for number in (0, 1, -1):
        with pytest.raises(IndexError):
            damaged[number]
    assert damaged.find("b") is None


@needs_native
@given(st.lists(words), st.lists(words))
def test_words_stand_where_their_hash_does(held: list[str], asked: list[str]) -> None:
    table = np.sort(hash_all(held)) if held else np.zeros(0, np.uint64)
    found = native.places(table, held + asked)
    assert [place >= 0 for place in found] == [word in held for word in held + asked]
    assert all(table[place] == hash_all([word])[0] for word, place in zip(held, found, strict=False))


def three_terms() -> dict[str, np.ndarray]:
    """The arrays of two triples of three terms."""
    return {
        "outgoing": np.array([0, 1, 2, 2], np.uint64),
        "incoming": np.array([0, 0, 1, 2], np.uint64),
        "incoming_triple": np.array([0, 1], np.uint32),
        "triple_subject": np.array([0, 1], np.uint32),
        "triple_predicate": np.array([1, 1], np.uint32),
        "triple_object": np.array([1, 2], np.uint32),
        "triple_graph": np.array([0, 0], np.uint32),
        "term_words_offset": np.array([0, 1, 2, 3], np.int64),
        "about_offset": np.array([0, 0, 0, 0], np.int64),
        "term_words": np.array([0, 1, 2], np.uint32),
        "about": np.zeros(0, np.uint32),
        "terms_offset": np.array([0, 1, 2, 3], np.uint64),
        "term_digit": np.zeros(3, np.uint8),
    }


@needs_native
@pytest.mark.parametrize(
    "damaged", ["incoming_triple", "triple_object", "term_words_offset", "outgoing", "terms_offset"]
)
def test_a_damaged_array_is_an_error(damaged: str) -> None:
    wild = three_terms()
    asked = np.array([1], np.int64), np.array([2.0])
    nothing = np.zeros((0, 64), np.int8)
    whole = native.Kernel(wild, b"abc", 10, 10, -1, WEIGHTS)
    assert [row[:3] for row in whole.best([0, 2], *asked, False, [], nothing, 5)[0]] == [(0, 1, 1), (1, 1, 2)]
    wild[damaged] = np.where(wild[damaged] > 0, wild[damaged].dtype.type(2**31 - 1), wild[damaged])
    kernel = native.Kernel(wild, b"abc", 10, 10, -1, WEIGHTS)
    with pytest.raises(IndexError):
        kernel.best([0, 2], *asked, False, [], nothing, 5)


@needs_native
def test_what_no_caller_gives_is_an_error_or_nothing() -> None:
    asked = np.array([1], np.int64), np.array([2.0])
    wide = three_terms() | {"term_vectors": np.ones((3, 128), np.int8)}
    kernel = native.Kernel(wide, b"abc", 10, 10, -1, WEIGHTS)
    with pytest.raises(IndexError, match="differ in width"):
        kernel.best([0], *asked, False, [-1], np.ones((1, 64), np.int8), 3)
    assert kernel.best([0], *asked, False, [-1], np.ones((1, 128), np.int8), -1)[:2] == ([], [])


@needs_native
def test_other_threads_go_on_while_many_candidates_are_compared() -> None:
    count, known = 4_000, 500
    many = three_terms()
    many |= {
        "outgoing": np.arange(count + 1, dtype=np.uint64),
        "incoming": np.zeros(count + 1, np.uint64),
        "triple_subject": np.arange(count, dtype=np.uint32),
        **{f"triple_{name}": np.zeros(count, np.uint32) for name in ("predicate", "object", "graph")},
        "term_words_offset": np.concatenate(([0], np.full(count, 1_000_000))),
        "term_words": np.arange(1_000_000, dtype=np.uint32),
        "about_offset": np.zeros(count + 1, np.int64),
    }
    kernel = native.Kernel(many, b"abc", 10, 10, -1, WEIGHTS)
    asked = np.arange(known), np.ones(known)
    done, turns = threading.Event(), 0
    thread = threading.Thread(target=lambda: (kernel.shared([0, 1], *asked), done.set()))
    before = sys.getswitchinterval()
    sys.setswitchinterval(3600)  # who holds the lock keeps it until it lets go
    try:
        thread.start()
        while not done.is_set():
            turns += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(before)
    thread.join()
    assert turns > 2


NAMES = ["In Rainbows", "IT", "Rainbow", "The Who", "cobian", "9", "Ärzte", "in", "NASA", "Rainbows Tour", "Cobian RAT"]
VARIED = ["IN RAINBOWS", "rain bows", "Rainbws", "CobianRAT", "it", "a", "who", "the", "Wh\u200bo", "ｉt"]
AROUND = ["www.a.org/who/in", "http://x/", ".", "! ", "[.]", "_", "@", "(", "“", "\u00a0", "\n"]
PIECES = [*NAMES, *(name.lower() for name in NAMES), *VARIED, *AROUND]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompiledRetriever, CompiledRetriever]:
    """One graph, with the compiled loops and without."""
    made = rdflib.Graph()
    for number, name in enumerate([*NAMES, "In Rainbows", "Who"]):
        entity = rdflib.URIRef(f"http://e/{number % 9}")
        made.add((entity, SKOS.altLabel if number % 3 else RDFS.label, rdflib.Literal(name)))
        made.add((entity, rdflib.URIRef("http://e/about"), rdflib.URIRef(f"http://e/{(number + 1) % 9}")))
        made.add((entity, SKOS.definition, rdflib.Literal(f"He saw it, with {name}, who was in it.")))
    folder = compile_graph(made, tmp_path_factory.mktemp("native") / "graph")
    return CompiledRetriever(folder), CompiledRetriever(folder, native=False)


@needs_native
@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " ", " ", ". "])), max_size=10), st.data())
def test_spans_are_pythons(
    graphs: tuple[CompiledRetriever, CompiledRetriever], pieces: list[tuple[str, str]], data: st.DataObject
) -> None:
    text = "".join(piece + space for piece, space in pieces)
    for _ in range(data.draw(st.integers(0, 3))):  # slips of the pen
        text = text or "Cobian"
        place, letter = data.draw(st.integers(0, len(text) - 1)), data.draw(st.sampled_from(["", "a", "R", "7", " "]))
        text = text[:place] + letter + text[place + data.draw(st.integers(0, 1)) :]
    one, two = (find_spans(graph.index, text, split(text)) for graph in graphs)
    assert one == two
    assert [tuple(map(type, span)) for span in one] == [tuple(map(type, span)) for span in two]


@needs_native
@pytest.mark.parametrize(
    ("text", "edits", "part"),
    [
        ("By Rainbows.", {0}, {True}),
        ("in rain bows", {0}, {False}),
        ("CobianRAT and Cobain Rat", {0, 1}, {False, True}),
        ("RainbowRAT", {1}, {False}),
        ("rainbos tuor and Rainbws Tuor", {1, 2}, {False, True}),
        ("Rainbow Rainbows Rainbo ", {0, 1}, {False, True}),
        ("Rainbos " * 60, {1}, {False, True}),
        ("x in Rainbows " * 400 + "Cobain", {0, 1}, {False, True}),
        ("İn Rainbows", {0}, {False}),
        ("nothing", set(), set()),
        ("", set(), set()),
    ],
)
def test_there_are_spans_of_every_kind(
    graphs: tuple[CompiledRetriever, CompiledRetriever], text: str, edits: set[int], part: set[bool]
) -> None:
    one, two = (find_spans(graph.index, text, split(text)) for graph in graphs)
    assert one == two
    assert ({span.edits for span in one}, {span.part for span in one}) == (edits, part)


@needs_native
@given(st.sets(words, max_size=6), st.lists(words), st.sets(words, max_size=3), st.data())
def test_spellings_are_pythons(held: set[str], asked: list[str], known: set[str], data: st.DataObject) -> None:
    ordered = sorted(held)
    for word in ordered:  # with some letters left out, put in or changed
        for _ in range(2):
            place, letter = data.draw(st.integers(0, len(word) - 1)), data.draw(st.sampled_from(["", "a", "7", "é"]))
            asked.append(word[:place] + letter + word[place + data.draw(st.integers(0, 1)) :])
            word = asked[-1] or word  # noqa: PLW2901 - twice
    forms = {word: deletions(word) for word in ordered}
    table = sorted((hash_all([form])[0], ordered.index(word)) for word, some in forms.items() for form in some)
    hashes = np.array([one for one, _ in table], np.uint64)
    vocabulary = np.sort(hash_all([stem(word) for word in known])) if known else np.zeros(0, np.uint64)
    lexicon = native.Lexicon(vocabulary, np.ones(len(known), np.uint32), stem, float, 9, 9)
    owners = np.array([owner for _, owner in table], np.uint32)
    speller = native.Speller(hashes, owners, native.Strings(*blob(ordered)), lexicon, 3, BOUNDS)

    def look_up(wanted: list[str], shortest_for_two: int) -> list[set[str]]:
        asked_forms = [set(deletions(word, shortest_for_two)) for word in wanted]
        return [{word for word, some in forms.items() if not one.isdisjoint(some)} for one in asked_forms]

    expected = nearest(asked, look_up, lambda word: stem(word) in {stem(one) for one in known})
    for _ in range(2):  # the second time from what is kept
        assert [speller.spellings(word) for word in asked] == expected


@needs_native
@pytest.mark.parametrize("damaged", ["part_key", "spelling_word", "keys", "key_filter"])
def test_damaged_tables_of_labels_are_an_error(
    graphs: tuple[CompiledRetriever, CompiledRetriever], damaged: str
) -> None:
    index = graphs[0].index
    wild = np.full(10_000, 2**31, np.uint32)
    tables = {"key_hash": index._tables._keys, "part_hash": index._tables._parts}
    tables |= {"key_filter": index._tables._filter, "part_key": index._part_key}
    owners, keys, shift = index._spelling_word, index._keys, int(index._tables._shift)
    if damaged == "spelling_word":
        owners = wild
    elif damaged == "keys":
        keys = native.Strings(b"a", np.array([0, 1], np.uint64))
    else:
        tables[damaged] = wild if damaged == "part_key" else np.full(1, 255, np.uint8)
    speller = native.Speller(index._tables._spellings, owners, index._label_words, index._lexicon, 9, BOUNDS)
    finder = native.Finder(keys, speller, tables, shift, 4, match.BOUNDS, match.RUN_ON, match.Span)
    text = "In Rainbows, Tour, Cobain"
    with pytest.raises(IndexError):
        finder.spans(text, *(getattr(split(text), name) for name in ("words", "starts", "ends")))


@needs_native
def test_a_finder_takes_words_of_the_text_only(graphs: tuple[CompiledRetriever, CompiledRetriever]) -> None:
    finder = graphs[0].index.finder
    assert finder is not None
    for wrong in (None, 7, b"Rainbows"):
        with pytest.raises(TypeError):
            finder.spans("Rainbows", [wrong], [0], [8])  # type: ignore[list-item]
    for start, end in ((-1, 8), (5, 12), (2**40, 2**40 + 8)):
        with pytest.raises(IndexError):
            finder.spans("Rainbows", ["rainbows"], [start], [end])
    with pytest.raises(ValueError, match="each word"):
        finder.spans("Rainbows", ["rainbows"], [], [])


def test_texts_and_iris_may_be_of_subclasses_of_str(graphs: tuple[CompiledRetriever, CompiledRetriever]) -> None:
    text, iri = "In Rainbows is by Ärzte.", "http://e/0"
    for graph in graphs:
        expected = graph.ground(text, 3)
        for kind in (np.str_, rdflib.Literal, rdflib.URIRef):
            assert graph.ground(kind(text), 3) == expected
            assert graph.link(kind(text)) == graph.link(text)
            assert graph.retrieve(kind(text), [kind(iri)], 3) == graph.retrieve(text, [iri], 3)
        for wrong in (b"In Rainbows", None, 7):
            with pytest.raises(TypeError):
                graph.ground(wrong, 3)  # type: ignore[arg-type]


def test_long_words_are_not_kept(graphs: tuple[CompiledRetriever, CompiledRetriever]) -> None:
    def words_in(holder: object) -> list[str]:
        dictionaries = [one for one in gc.get_referents(holder) if isinstance(one, dict)]
        return [word for one in dictionaries for word in one if isinstance(word, str)]

    long = "ж" * (LONGEST_KEPT + 1)
    kept = _kept_stem.cache_info().currsize
    for graph in graphs:
        graph.ground(f"{long} {long[1:]}", 3)
        if graph.index._lexicon is not None:
            assert long[1:] in words_in(graph.index._lexicon)
            assert long not in words_in(graph.index._lexicon)
    assert _kept_stem.cache_info().currsize == kept + 1


@needs_native
@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " ", " ", ". "])), max_size=10))
def test_readings_are_pythons(
    graphs: tuple[CompiledRetriever, CompiledRetriever], pieces: list[tuple[str, str]]
) -> None:
    text = "".join(piece + space for piece, space in pieces)
    one, two = (find_readings(graph.index, text, split(text)) for graph in graphs)
    assert one == two
    assert [type(reading) for reading in one] == [Reading] * len(two)


@needs_native
def test_there_are_readings_of_every_kind(graphs: tuple[CompiledRetriever, CompiledRetriever]) -> None:
    text = "IN rainbows and Rainbws, http://x/who/in.it: rain bows! It_who Tour [.]"
    found = [find_readings(graph.index, text, split(text)) for graph in graphs]
    assert found[0] == found[1]
    assert len(found[0]) > 5


@needs_native
@given(st.one_of(words, st.from_regex(r"[a-z]{1,9}(ations?|ings|ied|ers|ly|e|y)|[0-9]{1,4}[a-z]?", fullmatch=True)))
def test_stems_are_pythons(word: str) -> None:
    assert stem(word) == plain_stem(word)


@needs_native
@pytest.mark.parametrize("word", [*STOP_WORDS, "born", "twelve", "007", "0", "running", "baker", "ß", "²x"])
def test_stems_of_tables_are_pythons(word: str) -> None:
    assert stem(word) == plain_stem(word)


nodes = st.one_of(
    st.builds(literal_key, st.text(max_size=8), st.sampled_from(["", "http://d/t"]), st.sampled_from(["", "en"])),
    st.builds("http://x/{}#a_{}".format, words, words),
    st.builds("_:{}".format, words),
)
labels = st.one_of(st.just(""), st.text(max_size=8), st.text(st.sampled_from("ab \t\u00a0"), max_size=340))


def blob(texts: list[str]) -> tuple[bytes, np.ndarray]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join(encoded), np.cumsum([0, *map(len, encoded)]).astype(np.uint64)


@needs_native
@given(st.lists(st.tuples(nodes, labels), min_size=1, max_size=6), st.data())
def test_evidence_is_pythons(terms: list[tuple[str, str]], data: st.DataObject) -> None:
    count = st.integers(0, len(terms) - 1)
    rows = data.draw(st.lists(st.tuples(count, count, count, st.integers(0, 1)), max_size=8))
    disputed = data.draw(st.sets(st.sampled_from(rows)) if rows else st.just(set()))
    pairs = np.array(sorted({s << 32 | p for s, p, _, _ in disputed}), dtype=np.uint64)
    scores = [place / 8 for place in range(len(rows))]
    keys, texts = native.Strings(*blob([key for key, _ in terms])), native.Strings(*blob([text for _, text in terms]))
    writer = open_writer(keys, texts, ["", "http://g"], pairs)
    for _ in range(2):  # the second time from what is kept
        found = writer.evidence(rows, scores)
        for row, score, one in zip(rows, scores, found, strict=True):
            s, p, o = (make_term(*terms[node]) for node in row[:3])
            conflicting = row[0] << 32 | row[1] in pairs
            said = verbalise(s.label, p.label, o.label)
            assert one == Evidence(s, p, o, ["", "http://g"][row[3]], said, score, conflicting)
            assert (type(one), type(one.object)) == (Evidence, Term)
    with pytest.raises(IndexError):
        writer.evidence([(0, 0, len(terms), 0)], [1.0])


@needs_native
@given(
    st.sets(st.sampled_from(["film", "paris", "win", "7", "star"])),
    st.lists(words),
    st.integers(1, 3),
    st.integers(0, 8),
)
def test_a_lexicon_looks_up_what_the_index_does(held: set[str], asked: list[str], most: int, longest: int) -> None:
    asked = [*asked, "films", "the", "Paris".lower(), "won", "007", "film", "starring"]
    vocabulary = np.sort(hash_all(sorted(held))) if held else np.zeros(0, np.uint64)
    frequency = np.arange(1, len(held) + 1, dtype=np.uint32)
    lexicon = native.Lexicon(
        vocabulary, frequency, stem, lambda count: float(word_weights(np.array([count]), 50)[0]), most, longest
    )
    stems, numbers, known, weights = lexicon.look_up(asked)
    assert stems == [plain_stem(word) for word in asked]
    at = {one: native.places(vocabulary, [one])[0] for one in stems if one}
    assert numbers == {one: number for one, number in at.items() if number >= 0}
    assert known == sorted(numbers.values())
    assert weights == word_weights(frequency[known], 50).tolist()
