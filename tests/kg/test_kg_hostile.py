"""Broken and hostile RDF ends in `SourceError`, or is read; it never hangs, crashes, or eats the memory."""

import contextlib
import io
import random
import resource
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from fuzz_rdf import fuzz
from pyoxigraph import RdfFormat

from groundwire.kg import CompiledRetriever, SourceError, compile_graph
from groundwire.kg.guard import GuardedStream
from groundwire.kg.read import FORMATS, read_quads

LAUGHS = "".join(f'<!ENTITY {chr(97 + n)} "{("&" + chr(96 + n) + ";") * 10}">' for n in range(1, 20))
ENTITIES = f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa">{LAUGHS}]>'
RDF_XML = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:e="http://e.org/">'
    '<rdf:Description rdf:about="http://e.org/s"><e:p>%s</e:p></rdf:Description></rdf:RDF>'
)
HOSTILE = {
    "deep.ttl": "<http://e.org/s> <http://e.org/p> " + "[ <http://e.org/p> " * 100_000 + "1" + " ]" * 100_000 + " .",
    "unclosed.ttl": "<http://e.org/s> <http://e.org/p> " + "(" * 100_000,
    "deep.trig": "{ " * 50_000,
    "deep.jsonld": '{"http://e.org/p":' * 50_000 + "1" + "}" * 50_000,
    "array.jsonld": "[" * 200_000,
    "context.jsonld": '{"@context": "http://nowhere.invalid/context", "@id": "http://e.org/s", "p": 1}',
    "entities.rdf": ENTITIES + RDF_XML % "&t;",
    "external.rdf": '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + RDF_XML % "&x;",
    "deep.rdf": RDF_XML % ("<rdf:Description><e:p>" * 50_000),
    "hidden.rdf": RDF_XML % ('<rdf:Description e:x="/>"><e:p>' * 50_000),
    "comments.rdf": RDF_XML % ("<!--" * 200_000),
    "sections.rdf": RDF_XML % ("<![CDATA[" * 200_000),
    "instructions.rdf": "<?x" * 200_000,
    "tags.rdf": RDF_XML % ("<a " * 200_000),
    "string.jsonld": '{"@id": "' + '\\"' * 500_000,
    "quoted.nt": "<< <http://e.org/s> <http://e.org/p> <http://e.org/o> >> <http://e.org/p> <http://e.org/o> .",
    "escape.nt": '<http://e.org/s> <http://e.org/p> "\\uD800" .',
    "long.rdf": '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x "' + "x" * 100_000 + '">]>' + RDF_XML % ("&x;" * 10_000),
    "nul.nt": "\0" * 1000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(HOSTILE[name], encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "deep.ttl":  # the only one that is valid, and that the parser takes
        assert len(list(read_quads(path))) == 100_001
    else:
        with pytest.raises(SourceError, match=name):
            list(read_quads(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KiB


def test_a_huge_literal_is_read_and_cut_in_the_words(tmp_path: Path) -> None:
    path = tmp_path / "huge.nt"
    path.write_text(
        '<http://e.org/s> <http://www.w3.org/2000/01/rdf-schema#label> "Thing" .\n'
        f'<http://e.org/s> <http://e.org/note> "{"word " * 2_000_000}" .\n'
        f'<http://e.org/t> <http://www.w3.org/2000/01/rdf-schema#label> "{"Long " * 100_000}" .\n'
        "<http://e.org/t> <http://e.org/p> <http://e.org/s> .\n"
    )
    retriever = CompiledRetriever(compile_graph(path, tmp_path / "out"))
    evidence = retriever.ground("The Thing has a note", 5).evidence
    assert {fact.predicate.label for fact in evidence} == {"note", "p"}
    assert all(len(fact.text) < 1000 for fact in evidence)


MARKUP = [b"<a>", b"</a>", b"<a b='/>'>", b'<a b=">" />', b"<!-- <a> -->", b"<![CDATA[<a>]]>", b"<?x <a>?>", b"text "]
SAMPLE = (
    '@prefix : <http://e.org/> .\n:s :p "a\\tb"@en-GB , 1.5 , [ :q ( 1 2 ) ] ; a :C .\n<http://e.org/g> { :s :p :o }\n'
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(FORMATS)))
def test_damaged_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, seed: int, suffix: str) -> None:
    rng = random.Random(seed)
    data = bytearray(SAMPLE.encode())
    for _ in range(rng.randrange(6)):
        place = rng.randrange(len(data))
        kind = rng.randrange(3)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 20)]
        else:
            data[place:place] = data[rng.randrange(len(data)) :][: rng.randrange(40)]
        data = data or bytearray(b" ")
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(data)
    with contextlib.suppress(SourceError):
        assert all(quad[0] and quad[1] and quad[2] for quad in read_quads(path))


def test_ordinary_entities_and_nesting_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plain.rdf"
    head = '<?xml version="1.0"?><!DOCTYPE rdf:RDF [<!ENTITY e "http://e.org/">]><!-- <a><b> -->'
    path.write_text(head + (RDF_XML % "1 &lt; 2").replace('"http://e.org/s"', '"&e;s"'))
    assert [quad[0] + quad[2] for quad in read_quads(path)] == ['http://e.org/s"1 < 2"']


def test_damaged_files_of_every_syntax_neither_hang_nor_crash(tmp_path: Path) -> None:
    # Each is read in a child process: a crash of the native parser ends that one, and is told.
    ends = fuzz(seed=1, count=100, seconds=60.0, keep=tmp_path)
    assert set(ends) <= {"read", "refused"}
    assert min(ends["read"], ends["refused"]) > 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(MARKUP), max_size=30), st.integers(1, 9))
def test_depth_is_counted_the_same_however_the_file_is_cut(pieces: list[bytes], size: int) -> None:
    def depth(block: int) -> int:
        stream = GuardedStream(io.BytesIO(b"".join(pieces)), RdfFormat.RDF_XML, "x")
        while stream.read(block):
            pass
        return stream.depth

    assert depth(size) == depth(1 << 20)
